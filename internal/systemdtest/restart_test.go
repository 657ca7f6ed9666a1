package systemdtest

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// testRestart: whatever ends the broker, nothing is refused or dropped, and the next one
// has the same sockets and knows the same holders.
func testRestart(t *testing.T, b *box) {
	const impatient = "[Service]\nWatchdogSec=1\nTimeoutAbortSec=100ms\nRestartSec=100ms\n"
	dir := b.dir + "/etc/systemd/system/fdbroker.service.d"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/impatient.conf", []byte(impatient), 0o644); err != nil {
		t.Fatal(err)
	}
	b.do("systemctl", "daemon-reload")
	b.do("systemctl", "restart", "fdbroker")
	b.restarts("systemctl restart", "kill -9", "watchdog", "fdclient upgrade")
}

// restarts checks that workers and clients notice nothing of the end of the broker, in each of these ways.
func (b *box) restarts(ways ...string) {
	for name, restart := range map[string]func(was string){
		"systemctl restart": func(string) { b.do("systemctl", "restart", "fdbroker") },
		"kill -9":           func(string) { b.do("systemctl", "kill", "--signal=KILL", "fdbroker") },
		"watchdog":          func(string) { b.do("systemctl", "kill", "--signal=STOP", "fdbroker") },
		"fdclient upgrade":  func(was string) { b.do("fdclient", "upgrade") },
	} {
		if !slices.Contains(ways, name) {
			continue
		}
		b.test(name, func(t *testing.T, b *box) {
			cookie, holders := b.cookie(), b.list().Holders
			load := startLoad(t)
			for range 3 {
				load.more(20)
				was := b.property("MainPID")
				restart(was)
				fdtest.Eventually(t, "the next one answers", func() bool {
					out, err := b.run("fdclient", "ping")
					now := b.property("MainPID")
					return err == nil && strings.Contains(out, "answers") && now != "0" && (now != was) == (name != "fdclient upgrade")
				})
				load.more(20)
				now := b.list().Holders
				if !slices.EqualFunc(holders, now, func(a, b protocol.Holder) bool { return a.Grant == b.Grant && a.PID == b.PID }) {
					t.Errorf("holders: %+v, were %+v", now, holders)
				}
			}
			load.stop()
			if load.refused.Load()+load.dropped.Load() > 0 {
				t.Errorf("%d answered, %d refused, %d dropped", load.answered.Load(), load.refused.Load(), load.dropped.Load())
			}
			if b.cookie() != cookie {
				t.Error("the broker has another socket")
			}
			if n := b.property("NFileDescriptorStore"); n != "3" { // control socket, state, listener
				t.Errorf("systemd keeps %s descriptors", n)
			}
		})
	}
}

// testAutoStore: without --store the broker finds the store of a systemd that does not tell of it.
func testAutoStore(t *testing.T, b *box) {
	const unit = "/etc/systemd/system/fdbroker.service"
	text, err := os.ReadFile(b.dir + unit)
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(text []byte) {
		if err := os.WriteFile(b.dir+unit, text, 0o644); err != nil {
			t.Fatal(err)
		}
		b.do("systemctl", "daemon-reload")
		b.do("systemctl", "restart", "fdbroker")
	}
	rewrite(bytes.Replace(text, []byte(" --store systemd"), nil, 1))
	if _, err := b.run("pgrep", "-P", b.property("MainPID")); err == nil {
		t.Error("the broker has a keeper")
	}
	b.restarts("systemctl restart")
	rewrite(text)
}

// testStopStart: workers serve while the broker is stopped. From 254 on systemd keeps the sockets, and the next broker
// knows everything. Before, it may not take them back from another user's worker, and comes back when those have left.
func testStopStart(t *testing.T, b *box) {
	cookie, holders := b.cookie(), b.list().Holders
	load := startLoad(t)
	load.more(20)
	b.do("systemctl", "stop", "fdbroker")
	b.do("systemctl", "daemon-reload")
	load.more(20)
	out, err := b.run("systemctl", "start", "fdbroker")
	load.more(20)
	load.stop()
	if load.refused.Load()+load.dropped.Load() > 0 {
		t.Errorf("%d answered, %d refused, %d dropped", load.answered.Load(), load.refused.Load(), load.dropped.Load())
	}
	if b.version >= 254 {
		if err != nil {
			t.Errorf("start: %s", out)
		}
		if b.cookie() != cookie || !slices.EqualFunc(holders, b.list().Holders, func(a, b protocol.Holder) bool { return a.Grant == b.Grant && a.PID == b.PID }) {
			t.Errorf("it has another socket, or other holders: %+v, were %+v", b.list(), holders)
		}
		return
	}
	if err == nil {
		t.Error("a broker without privileges has taken sockets from workers of other users")
	}
	b.do("systemctl", "stop", "worker@1", "worker@2")
	fdtest.Eventually(t, "the broker comes back", func() bool {
		_, err := b.run("systemctl", "is-active", "fdbroker")
		return err == nil
	})
	b.do("systemctl", "start", "worker@1", "worker@2")
	b.bothAnswer()
}
