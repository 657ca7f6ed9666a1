package notify_test

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/notify"
	"golang.org/x/sys/unix"
)

// manager is a service manager's socket at address.
func manager(t *testing.T, address string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	return c
}

func receive(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestTell(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, address := range []string{fdtest.SocketDir(t) + "/n", "@fdbroker-notify-" + strconv.Itoa(os.Getpid())} {
		c := manager(t, address)
		t.Setenv("NOTIFY_SOCKET", address)
		m, err := notify.FromEnvironment()
		if err != nil || m == nil {
			t.Fatal(m, err)
		}
		if _, set := os.LookupEnv("NOTIFY_SOCKET"); set {
			t.Error("NOTIFY_SOCKET is still set")
		}
		if err := m.Tell(notify.Ready, notify.Status("one\ntwo")); err != nil {
			t.Fatal(err)
		}
		if got, want := receive(t, c), "READY=1\nSTATUS=one; two"; got != want {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
	}
}

// TestReloading: the time is that of CLOCK_MONOTONIC, between before and after.
func TestReloading(t *testing.T) {
	clock := func() int64 {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			t.Fatal(err)
		}
		return ts.Nano() / 1000
	}
	before := clock()
	text := notify.Reloading()
	after := clock()
	usec, ok := strings.CutPrefix(text, "RELOADING=1\nMONOTONIC_USEC=")
	n, err := strconv.ParseInt(usec, 10, 64)
	if !ok || err != nil || n < before || n > after {
		t.Errorf("got %q, want a time from %d to %d", text, before, after)
	}
}

func TestNoManager(t *testing.T) {
	fdtest.CheckLeaks(t)
	t.Setenv("NOTIFY_SOCKET", "")
	m, err := notify.FromEnvironment()
	if m != nil || err != nil {
		t.Errorf("without: got %v, %v", m, err)
	}
	if err := m.Tell(notify.Ready); err != nil || m.Watchdog() != 0 {
		t.Errorf("telling nobody: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", "vsock:2:1234")
	if m, err := notify.FromEnvironment(); m != nil || err == nil || !strings.Contains(err.Error(), "vsock:2:1234") {
		t.Errorf("vsock: got %v, %v", m, err)
	}
	t.Setenv("NOTIFY_SOCKET", fdtest.SocketDir(t)+"/nobody")
	if m, err = notify.FromEnvironment(); err != nil {
		t.Fatal(err)
	}
	if err := m.Tell(notify.Ready); err == nil {
		t.Error("nobody listens, and telling them succeeds")
	}
}

// TestManagerStuck: a manager that does not read costs a second, not a hang.
func TestManagerStuck(t *testing.T) {
	fdtest.CheckLeaks(t)
	address := fdtest.SocketDir(t) + "/n"
	manager(t, address)
	t.Setenv("NOTIFY_SOCKET", address)
	m, err := notify.FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	for range 100000 {
		if err = m.Tell(notify.Alive); err != nil {
			break
		}
	}
	if !os.IsTimeout(err) && !strings.Contains(err.Error(), "timeout") {
		t.Errorf("got %v", err)
	}
}

func TestWatchdog(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
		bad       bool
	}{
		{"", "", 0, false},
		{"30000000", "", 30 * time.Second, false},
		{"30000000", own, 30 * time.Second, false},
		{"30000000", "1", 0, false},
		{"soon", own, 0, true},
		{"0", "", 0, true},
		{"-1", "", 0, true},
		{"9223372036854775807", "", 0, true},
	} {
		t.Setenv("NOTIFY_SOCKET", "/n")
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		m, err := notify.FromEnvironment()
		if m.Watchdog() != c.want || (err != nil) != c.bad {
			t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s: got %v, %v", c.usec, c.pid, m.Watchdog(), err)
		}
		if _, set := os.LookupEnv("WATCHDOG_USEC"); set {
			t.Error("WATCHDOG_USEC is still set")
		}
	}
}
