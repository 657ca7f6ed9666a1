package supervisor_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// stranger is another user, who sends to the sockets that workers say READY=1 on. All users
// of the machine know their addresses.
type stranger struct {
	t  *testing.T
	fd int
	ln net.Listener
}

func newStranger(t *testing.T) *stranger {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stranger{t: t, fd: -1, ln: ln}
	t.Cleanup(func() {
		s.relent()
		if s.fd >= 0 {
			_ = unix.Close(s.fd)
		}
	})
	if s.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		t.Fatal(err)
	}
	return s
}

// relent ends the closes that block because of s.
func (s *stranger) relent() { _ = s.ln.Close() }

// lingering returns a socket whose last close blocks for ten minutes, or until relent.
func (s *stranger) lingering() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: s.ln.Addr().(*net.TCPAddr).Port}
	err = errors.Join(
		unix.Connect(fd, to), // it is neither accepted nor read
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 600}),
		unix.SetNonblock(fd, true),
	)
	for err == nil {
		_, err = unix.Write(fd, make([]byte, 65536))
	}
	if err != unix.EAGAIN {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// send sends a lingering socket to a worker's socket, and closes its own descriptor of it.
func (s *stranger) send(address string) error {
	fd, err := s.lingering()
	if err != nil {
		return err
	}
	err = unix.Sendmsg(s.fd, []byte("x"), unix.UnixRights(fd), &unix.SockaddrUnix{Name: address}, 0)
	if err != nil {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	return errors.Join(err, unix.Close(fd))
}

// block sends a lingering socket to the worker with that pid as before Linux 6.16, and
// returns when it was read, by a goroutine that its close then blocks.
func (s *stranger) block(pid int) error {
	address, err := notifySocket(pid)
	if err != nil {
		return err
	}
	fd, err := descriptor(address)
	if err != nil {
		return err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 1)
	// Peeks see nothing until s has closed its descriptor, which might be closed last otherwise.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 1<<20); err != nil {
		return err
	}
	err = s.send(address)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, -1)
	if err != nil {
		return err
	}
	fdtest.Eventually(s.t, "what the stranger has sent is read", func() bool {
		n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err != nil || n == 0
	})
	return nil
}

func notifySocket(pid int) (string, error) {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "", err
	}
	for line := range bytes.SplitSeq(env, []byte{0}) {
		if address, ok := bytes.CutPrefix(line, []byte("NOTIFY_SOCKET=@")); ok {
			return "@" + string(address), nil
		}
	}
	return "", errors.New("no NOTIFY_SOCKET")
}

// descriptor returns which of this process's descriptors is bound to address.
func descriptor(address string) (int, error) {
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		return -1, err
	}
	for _, path := range all {
		fd, _ := strconv.Atoi(filepath.Base(path))
		sa, err := unix.Getsockname(fd)
		if u, ok := sa.(*unix.SockaddrUnix); err == nil && ok && u.Name == address {
			return fd, nil
		}
	}
	return -1, fmt.Errorf("no descriptor is bound to %q", address)
}

// TestStrangersDescriptors: the kernel refuses descriptors for a readiness socket.
func TestStrangersDescriptors(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "asked")
	r := h.keep(supervisor.Config{Workers: 1, NotifyReady: true})
	pid := h.another(1)
	address, err := notifySocket(pid)
	if err != nil {
		t.Fatal(err)
	}
	s := newStranger(t)
	if _, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS); err != nil {
		t.Skip("the kernel has no SO_PASSRIGHTS: ", err)
	}
	if err := unix.Sendmsg(s.fd, []byte("x"), unix.UnixRights(s.fd), &unix.SockaddrUnix{Name: address}, 0); err != unix.EPERM {
		t.Errorf("got %v, want EPERM", err)
	}
	h.tell(pid)
	r.waitFor("1 of 1 workers ready")
}

// TestStrangerBlocksNothing: a close that a stranger blocks holds up neither restarts nor
// signals.
func TestStrangerBlocksNothing(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "notify")
	r := h.keep(supervisor.Unnudged(supervisor.Config{Workers: 2, NotifyReady: true, RestartDelay: time.Millisecond}))
	r.waitFor("2 of 2 workers ready")
	h.aged(2 * time.Millisecond)
	s, pids := newStranger(t), h.pids()
	if err := s.block(pids[0]); err != nil {
		t.Fatal(err)
	}
	h.tell(pids[1]) // it crashes
	third := h.another(3, pids...)
	fdtest.Eventually(t, "the new one is ready", func() bool { return r.reported("2 of 2 workers ready") == 2 })
	h.tell(pids[0]) // this one crashes too, whose socket the closer has
	fourth := h.another(4, append(pids, third)...)
	fdtest.Eventually(t, "another new one is ready", func() bool { return r.reported("2 of 2 workers ready") == 3 })
	for _, pid := range []int{third, fourth} {
		if err := s.block(pid); err != nil {
			t.Fatal(err)
		}
	}
	r.signal(unix.SIGTERM)
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

// TestStrangerMakesLate: a worker whose READY=1 waits behind a blocked close is late and
// restarted; the READY=1 of the next one is read.
func TestStrangerMakesLate(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "asked")
	r := h.keep(supervisor.Unnudged(supervisor.Config{Workers: 1, NotifyReady: true, ReadyTimeout: time.Second, RestartDelay: time.Millisecond, RestartMax: 2 * time.Millisecond}))
	s := newStranger(t)
	fdtest.Eventually(t, "a readiness socket is blocked", func() bool { // of a worker that is not late yet
		return slices.ContainsFunc(h.pids(), func(pid int) bool { return s.block(pid) == nil })
	})
	h.mode("notify")
	r.waitFor("1 of 1 workers ready")
}

// TestStrangerIsNudged: a close that a stranger blocks is interrupted, and READY=1 is read.
func TestStrangerIsNudged(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "asked")
	r := h.keep(supervisor.Config{Workers: 1, NotifyReady: true, ReadyTimeout: time.Hour})
	pid := h.another(1)
	s := newStranger(t)
	for range 3 {
		if err := s.block(pid); err != nil {
			t.Fatal(err)
		}
	}
	h.tell(pid)
	r.waitFor("1 of 1 workers ready")
}
