package systemdtest

import (
	"encoding/json"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

const address = "127.0.0.1:80"

// TestSystemd installs the units of examples/systemd as they are, and does with them
// what an operator does.
func TestSystemd(t *testing.T) {
	b := bootUnits(t, "trixie")
	if b == nil {
		return
	}
	b.test("main job", testMainJob)
	b.test("reload", testReload)
	b.test("worker killed under load", testKilled)
	b.test("restart", testRestart)
	b.test("stop and start", testStopStart)
	b.test("workers", testWorkers)
	b.test("not ready before all is bound", testNotReady)
	b.test("socket-fed", testSocketFed)
	b.test("put", testPut)
}

// TestSystemd252 does in a systemd before 254, which says nothing of its descriptor store and drops it when the service
// is stopped, what might go otherwise there.
func TestSystemd252(t *testing.T) {
	skipRace(t)
	b := bootUnits(t, "bookworm")
	if b == nil {
		return
	}
	if b.version >= 254 {
		t.Fatalf("systemd %d", b.version)
	}
	b.test("main job", testMainJob)
	b.test("reload", testReload)
	b.test("restart", func(_ *testing.T, b *box) { b.restarts("systemctl restart", "kill -9", "fdclient upgrade") })
	b.test("store found", testAutoStore)
	b.test("stop and start", testStopStart)
	b.test("workers", testWorkers)
	b.test("socket-fed", testSocketFed)
}

// TestSystemdSid does in a systemd that is not released yet what a service manager has most to do with.
func TestSystemdSid(t *testing.T) {
	skipRace(t)
	b := bootUnits(t, "sid")
	if b == nil {
		return
	}
	b.test("main job", testMainJob)
	b.test("reload", testReload)
	b.test("stop and start", testStopStart)
	b.test("workers", testWorkers)
}

// skipRace skips a test that the race detector sees nothing of, because all happens in other processes.
func skipRace(t *testing.T) {
	t.Helper()
	info, ok := debug.ReadBuildInfo()
	if ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" }) {
		t.Skip("there is nothing for the race detector")
	}
}

// bootUnits boots the systemd of a Debian suite with the units. It returns nil if the test was run elsewhere: see
// [isolated].
func bootUnits(t *testing.T, suite string) *box {
	t.Helper()
	if !isolated(t, func() string { return newTree(t, suite) }) {
		return nil
	}
	b := boot(t)
	b.do("systemd-sysusers")
	b.do("systemctl", "daemon-reload")
	b.do("systemctl", "enable", "fdbroker")
	return b
}

// test runs a part of a test.
func (b *box) test(name string, part func(t *testing.T, b *box)) {
	whole := b.t
	defer func() { b.t = whole }()
	whole.Run(name, func(t *testing.T) {
		b.t = t
		part(t, b)
	})
}

func testMainJob(t *testing.T, b *box) {
	b.do("systemctl", "start", "fdbroker", "worker@1", "worker@2")
	b.do("systemctl", "is-active", "fdbroker", "worker@1", "worker@2")
	if status := b.property("StatusText"); status != "serving 1 listener" {
		t.Errorf("status: %q", status)
	}
	b.bothAnswer()
	if user := b.do("stat", "-c", "%U", "/proc/"+b.property("MainPID")); user != "fdbroker\n" {
		t.Errorf("the broker runs as %q", user)
	}
	for _, h := range b.list().Holders {
		if h.PID == 0 || h.Connection || h.Command != "/usr/local/bin/server" {
			t.Errorf("holder: %+v", h)
		}
	}
}

// bothAnswer asks until two workers have answered.
func (b *box) bothAnswer() {
	b.t.Helper()
	seen := make(map[string]bool)
	fdtest.Eventually(b.t, "both workers answer", func() bool {
		text, err := ask()
		if err != nil {
			b.t.Fatal(err)
		}
		seen[text] = true
		return len(seen) > 1
	})
}

func (b *box) property(name string) string {
	b.t.Helper()
	return strings.TrimSpace(b.do("systemctl", "show", "--value", "-p", name, "fdbroker"))
}

func (b *box) list() (list protocol.ListReply) {
	b.t.Helper()
	if err := json.Unmarshal([]byte(b.do("fdclient", "list", "--json")), &list); err != nil {
		b.t.Fatal(err)
	}
	return list
}

// cookie returns which socket the listener web has.
func (b *box) cookie() uint64 {
	b.t.Helper()
	for _, l := range b.list().Listeners {
		if l.Name == "web" {
			return l.Cookie
		}
	}
	b.t.Fatal("there is no listener web")
	return 0
}

const spec = "web=:80,allow=group:fdbroker"

// testReload: systemctl knows when it is done, and whether it worked.
func testReload(t *testing.T, b *box) {
	was := b.cookie()
	b.configure(spec, "adm=127.0.0.1:81")
	b.do("systemctl", "reload", "fdbroker")
	if l := b.list(); len(l.Listeners) != 2 || len(l.Holders) != 2 || b.cookie() != was {
		t.Errorf("after a reload: %+v", l)
	}
	b.configure(spec, "adm")
	if out, err := b.run("systemctl", "reload", "fdbroker"); err == nil {
		t.Errorf("a reload with a bad spec: %s", out)
	}
	if status := b.property("StatusText"); !strings.HasPrefix(status, "serving 2 listeners; configuration not loaded: /etc/fdbroker.conf:2: ") {
		t.Errorf("status: %q", status)
	}
	if state := b.property("ActiveState"); state != "active" || len(b.list().Listeners) != 2 {
		t.Errorf("the broker is %s", state)
	}
	b.configure(spec)
	b.do("systemctl", "reload", "fdbroker")
	if status := b.property("StatusText"); status != "serving 1 listener" {
		t.Errorf("status: %q", status)
	}
}

// testKilled: what a worker that is killed had accepted is lost, and nothing else.
func testKilled(t *testing.T, b *box) {
	load := startLoad(t)
	for range 5 {
		load.more(20)
		b.do("systemctl", "kill", "--signal=KILL", "worker@1")
		load.more(20)
		b.do("systemctl", "is-active", "worker@2")
	}
	load.stop()
	if load.refused.Load() > 0 || load.dropped.Load() > 5*clients {
		t.Errorf("%d answered, %d refused, %d dropped", load.answered.Load(), load.refused.Load(), load.dropped.Load())
	}
	fdtest.Eventually(t, "systemd has started the worker again", func() bool { return len(b.list().Holders) == 2 })
}

// emptyStore makes systemd close what it keeps of a broker that is stopped, or has failed.
func (b *box) emptyStore() {
	b.t.Helper()
	if b.version >= 254 {
		_, _ = b.run("systemctl", "reset-failed", "fdbroker") // fails if it has not failed
		b.do("systemctl", "clean", "--what=fdstore", "fdbroker")
	}
}

// testNotReady: the start fails, and the journal says why.
func testNotReady(t *testing.T, b *box) {
	b.do("systemctl", "stop", "worker@1", "worker@2", "fdbroker")
	b.emptyStore()
	if conn, err := net.Dial("tcp", address); err == nil {
		_ = conn.Close()
		t.Error("the port is still open")
	}
	b.configure(spec, "bad=192.0.2.1:81")
	if out, err := b.run("systemctl", "start", "fdbroker"); err == nil {
		t.Errorf("it was ready: %s", out)
	}
	if journal := b.do("journalctl", "--no-pager", "-o", "cat", "-u", "fdbroker"); !strings.Contains(journal, "fdbroker: cannot bind bad=192.0.2.1:81: no interface of this machine has the address 192.0.2.1") {
		t.Errorf("the journal does not say why:\n%s", journal)
	}
	b.do("systemctl", "stop", "fdbroker") // which is to be started again otherwise
}

// testSocketFed: systemd has the socket, and the broker comes and goes.
func testSocketFed(t *testing.T, b *box) {
	b.do("systemctl", "stop", "worker@1", "worker@2", "fdbroker")
	b.emptyStore()
	b.configure("web=:80,max=9,allow=group:fdbroker")
	b.do("systemctl", "start", "fdbroker.socket")
	b.do("systemctl", "start", "fdbroker", "worker@1", "worker@2")
	was := b.cookie()
	if l := b.list().Listeners; len(l) != 1 || l[0].Max != 9 || l[0].Address != "[::]:80" {
		t.Errorf("listeners: %+v", l)
	}
	b.bothAnswer()
	load := startLoad(t)
	for range 3 {
		load.more(20)
		b.do("systemctl", "restart", "fdbroker")
		load.more(20)
	}
	load.stop()
	if load.refused.Load()+load.dropped.Load() > 0 {
		t.Errorf("%d answered, %d refused, %d dropped", load.answered.Load(), load.refused.Load(), load.dropped.Load())
	}
	if b.cookie() != was {
		t.Error("the broker has another socket")
	}

	load = startLoad(t)
	load.more(20)
	b.do("systemctl", "stop", "fdbroker")
	load.more(20)
	b.do("systemctl", "start", "fdbroker")
	load.more(20)
	load.stop()
	if load.refused.Load()+load.dropped.Load() > 0 || b.cookie() != was {
		t.Errorf("stop and start: %d answered, %d refused, %d dropped", load.answered.Load(), load.refused.Load(), load.dropped.Load())
	}

	// With no worker and no broker, a connection waits for both.
	b.do("systemctl", "stop", "worker@1", "worker@2", "fdbroker")
	answer := make(chan error, 1)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := exchange(conn)
		answer <- err
	}()
	b.do("systemctl", "start", "fdbroker", "worker@1")
	if err := <-answer; err != nil {
		t.Error(err)
	}
}
