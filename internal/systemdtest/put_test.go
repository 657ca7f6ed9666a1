package systemdtest

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// testPut: a service that systemd starts by its socket becomes one of the broker's
// workers by one line of its unit, and the port has others beside it.
func testPut(t *testing.T, b *box) {
	for name, text := range map[string]string{
		"app.socket":  "[Socket]\nListenStream=127.0.0.1:82\n",
		"app.service": "[Service]\nExecStart=/usr/local/bin/fdclient put app -- /usr/local/bin/server\nNonBlocking=yes\n",
	} {
		if err := os.WriteFile(b.dir+"/etc/systemd/system/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.configure()
	b.do("systemctl", "daemon-reload")
	b.do("systemctl", "start", "fdbroker", "app.socket")
	by := func() string {
		conn, err := net.Dial("tcp", "127.0.0.1:82")
		if err != nil {
			t.Fatal(err)
		}
		pid, err := exchange(conn)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(pid)
	}
	first := by() // which starts the service
	if main := strings.TrimSpace(b.do("systemctl", "show", "--value", "-p", "MainPID", "app")); main != first {
		t.Errorf("pid %s answers, and the service is %s", first, main)
	}
	holders := func() int {
		for _, l := range b.list().Listeners {
			if l.Name == "app" {
				return l.Holders
			}
		}
		return -1
	}
	if n := holders(); n != 1 {
		t.Errorf("%d holders", n)
	}
	b.do("systemctl", "restart", "app") // puts the same socket again
	b.do("systemd-run", "--unit=second", "/usr/local/bin/fdclient", "get", "app", "--", "/usr/local/bin/server")
	fdtest.Eventually(t, "there are two holders", func() bool { return holders() == 2 })
	b.do("systemctl", "stop", "app.socket", "app")
	second := strings.TrimSpace(b.do("systemctl", "show", "--value", "-p", "MainPID", "second"))
	if pid := by(); pid != second {
		t.Errorf("pid %s answers, want %s", pid, second)
	}
	b.do("systemctl", "stop", "second")
}
