//go:build linux

package broker_test

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// TestSharedStateIsKept: a worker that dials, accepts and closes changes nothing that all
// holders of a socket share.
func TestSharedStateIsKept(t *testing.T) {
	dir := fdtest.SocketDir(t)
	for name, spec := range map[string]string{
		"tcp":      "s=127.0.0.1:0,backlog=17",
		"tcp6":     "s=tcp6://[::1]:0,backlog=17,defer-accept=1s,nodelay,keepalive",
		"unix":     "s=unix://" + filepath.Join(dir, "u"),
		"udp":      "s=udp://127.0.0.1:0",
		"unixgram": "s=unixgram://" + filepath.Join(dir, "g"),
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			observer := b.get("s")
			before := stateOf(t, observer)
			if before["flags"] != fmt.Sprint(unix.O_RDWR|unix.O_NONBLOCK) {
				t.Errorf("flags are %s before", before["flags"])
			}
			during := func() {
				t.Helper()
				if now := stateOf(t, observer); !maps.Equal(now, before) {
					t.Errorf("changed:\n%s", difference(before, now))
				}
			}
			switch name {
			case "udp", "unixgram":
				pc, err := b.dialer().DialPacket(context.Background(), "s")
				if err != nil {
					t.Fatal(err)
				}
				during()
				c := connect(t, pc.LocalAddr())
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, _, err := pc.ReadFrom(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				during()
				_ = pc.Close()
			default:
				ln := b.dial("s")
				during()
				c := connect(t, ln.Addr())
				if _, err := c.Write([]byte("x")); err != nil { // for defer-accept
					t.Fatal(err)
				}
				accepted, err := ln.Accept()
				if err != nil {
					t.Fatal(err)
				}
				_, _ = accepted.Close(), c.Close()
				during()
				_ = ln.Close()
			}
			b.waitHolders("s", 1) // the observer
			during()
		})
	}
}

// TestDescriptorsAreCloseOnExec: those of a worker are.
func TestDescriptorsAreCloseOnExec(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	flagsOf := func(c control) (flags int) {
		err := c.Control(func(fd uintptr) { flags, _ = unix.FcntlInt(fd, unix.F_GETFD, 0) })
		if err != nil {
			t.Fatal(err)
		}
		return flags
	}
	rc, err := b.dial("web").SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if flagsOf(rc)&unix.FD_CLOEXEC == 0 {
		t.Error("that of a Listener is not")
	}
	if flagsOf(b.get("web").FD)&unix.FD_CLOEXEC == 0 {
		t.Error("that of a Socket is not")
	}
}

type control interface{ Control(func(fd uintptr)) error }

// stateOf returns the properties of a socket that do not change by themselves: its status
// flags, its backlog and its options.
func stateOf(t testing.TB, s broker.Socket) map[string]string {
	t.Helper()
	state := make(map[string]string)
	err := s.FD.Control(func(fd uintptr) {
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err != nil {
			t.Error(err)
		}
		state["flags"] = fmt.Sprint(flags)
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state["listening"] = fmt.Sprint(info.State, info.Sacked)
		}
		for level, last := range map[int]int{unix.SOL_SOCKET: 90, unix.IPPROTO_TCP: 50, unix.IPPROTO_IP: 60, unix.IPPROTO_IPV6: 90} {
			for option := 1; option <= last; option++ {
				if volatile(level, option) {
					continue
				}
				if value, ok := optionOf(fd, level, option); ok {
					state[fmt.Sprintf("level %d option %d", level, option)] = value
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(state) < 30 {
		t.Errorf("only %d things could be asked", len(state))
	}
	return state
}

// volatile reports whether an option depends on traffic, or reading it has an effect.
func volatile(level, option int) bool {
	switch level {
	case unix.SOL_SOCKET:
		return option == unix.SO_MEMINFO || option == unix.SO_INCOMING_CPU || option == unix.SO_INCOMING_NAPI_ID ||
			option == unix.SO_PEERPIDFD || option == unix.SO_ERROR
	case unix.IPPROTO_TCP:
		return option == unix.TCP_INFO || option == unix.TCP_CC_INFO || option == unix.TCP_TIMESTAMP || option == unix.TCP_ZEROCOPY_RECEIVE
	}
	return false
}

func optionOf(fd uintptr, level, option int) (string, bool) {
	buf := make([]byte, 512)
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	return fmt.Sprintf("%x", buf[:size]), errno == 0
}

func difference(before, now map[string]string) (text string) {
	for k, v := range before {
		if now[k] != v {
			text += fmt.Sprintf("%s: %s before, %s now\n", k, v, now[k])
		}
	}
	return text
}

func cookieOf(t testing.TB, c syscall.Conn) (cookie uint64) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = rc.Control(func(fd uintptr) {
		var gerr error
		if cookie, gerr = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE); gerr != nil {
			t.Error(gerr)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}
