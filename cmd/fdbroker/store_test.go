package main

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// TestSystemdStore: a broker uses the store that its service manager offers: $FDSTORE says so, or before systemd 254
// the manager keeps what it is given.
func TestSystemdStore(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, c := range []struct {
		name    string
		env     string
		flag    string
		keeps   bool // the manager has a store
		systemd bool // the broker uses it
		warns   bool // that there is no room
	}{
		{"said", "FDSTORE=10", "auto", true, true, false},
		{"said to be none", "FDSTORE=0", "auto", true, false, false},
		{"tried", "INVOCATION_ID=1", "auto", true, true, false},
		{"tried in vain", "INVOCATION_ID=1", "auto", false, false, false},
		{"another manager", "X=", "auto", true, false, false},
		{"asked for", "X=", "systemd", true, true, false},
		{"asked for in vain", "X=", "systemd", false, false, true},
		{"asked for, said to be none", "FDSTORE=0", "systemd", false, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newServiceManager(t)
			stored := m.store(c.keeps)
			cmd := m.command("--bind", "web=127.0.0.1:0", "--store", c.flag)
			var log bytes.Buffer
			cmd.Stderr = &log
			cmd.Env = append(slices.DeleteFunc(cmd.Env, func(kv string) bool { return strings.HasPrefix(kv, "INVOCATION_ID=") }), c.env)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { fdtest.Stop(cmd.Process, func() { _ = cmd.Wait() }) })
			names := <-stored // all is stored before READY=1
			want := []string(nil)
			if c.systemd {
				want = []string{"@1", "@control", "@state"}
			}
			for i, name := range names {
				names[i], _, _ = strings.Cut(name, ".") // the journal has a name of its own
			}
			if slices.Sort(names); !slices.Equal(names, want) {
				t.Errorf("the manager keeps %q, want %q", names, want)
			}
			terminate(t, cmd)
			if warns := strings.Contains(log.String(), "FileDescriptorStoreMax="); warns != c.warns {
				t.Errorf("it warns: %t, want %t:\n%s", warns, c.warns, log.String())
			}
		})
	}
}

// store receives the broker's messages as systemd does, up to READY=1, and sends the names of what it keeps then. The
// test's end closes that.
func (m *serviceManager) store(keeps bool) <-chan []string {
	kept, names := make(map[string]int), make(chan []string, 1)
	m.t.Cleanup(func() {
		for _, fd := range kept {
			_ = unix.Close(fd)
		}
	})
	go func() {
		defer close(names)
		b, oob := make([]byte, 4096), make([]byte, 64)
		_ = m.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		for ready := false; !ready; {
			n, oobn, _, _, err := m.conn.ReadMsgUnix(b, oob)
			if err != nil {
				m.t.Error(err)
				return
			}
			var fds []int
			if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
				fds, _ = unix.ParseUnixRights(&messages[0])
			}
			first, rest, _ := strings.Cut(string(b[:n]), "\n")
			name, _, _ := strings.Cut(strings.TrimPrefix(rest, "FDNAME="), "\n")
			if first == "FDSTORE=1" && keeps && len(fds) == 1 {
				kept[name], fds = fds[0], nil
			}
			if fd, stored := kept[name]; stored && first == "FDSTOREREMOVE=1" {
				fds = append(fds, fd)
				delete(kept, name)
			}
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			ready = first == "READY=1"
		}
		names <- slices.Collect(maps.Keys(kept))
	}()
	return names
}
