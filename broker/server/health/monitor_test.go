package health

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// start returns a running monitor and its reports.
func start(t *testing.T) (*Monitor, *reports) {
	t.Helper()
	r := new(reports)
	m, err := Start(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m, r
}

// TestKernelReports: the kernel reports shutdowns and removed paths, also of sockets that nobody holds.
func TestKernelReports(t *testing.T) {
	fdtest.CheckLeaks(t)
	m, r := start(t)
	web, path := open(t, "web=127.0.0.1:0"), filepath.Join(fdtest.SocketDir(t), "s")
	app := open(t, "app=unix://"+path)
	m.Watch(web, false)
	m.Watch(app, false)
	for i := range 3 {
		do(t, web, shutDown)
		r.await(t, i+1, "web: repaired")
		if limitOf(t, web) == 0 {
			t.Error("it does not listen")
		}
	}
	fdtest.Eventually(t, "the path is watched", func() bool {
		_ = os.Remove(path)
		return len(r.those("app: repaired 1 path removed")) > 0
	})
	fdtest.Eventually(t, "the path is back", func() bool {
		_, err := os.Lstat(path)
		return err == nil
	})
	if is := m.Status(web); is.Repaired != 3 || is.Fault != "" {
		t.Errorf("Status: %+v", is)
	}
}

// TestHeldIsLookedAt: the monitor looks, and so finds changes that the kernel does not report.
func TestHeldIsLookedAt(t *testing.T) {
	fdtest.CheckLeaks(t)
	m, r := start(t)
	web, dns := open(t, "web=127.0.0.1:0"), open(t, "dns=udp://127.0.0.1:0")
	for _, s := range []*socket.Socket{web, dns} {
		m.Watch(s, false)
		m.Held(s)
	}
	do(t, web, listenFive)
	do(t, dns, func(fd int) error {
		sa, err := unix.Getsockname(fd)
		if err == nil {
			err = unix.Connect(fd, sa)
		}
		return err
	})
	r.await(t, 1, "web: repaired 1 backlog 5 instead of")
	r.await(t, 1, "dns: repaired 1 connected to one peer")
}

// TestFreedIsLookedAt: a worker may do harm just before it ends.
func TestFreedIsLookedAt(t *testing.T) {
	fdtest.CheckLeaks(t)
	m, r := start(t)
	web := open(t, "web=127.0.0.1:0")
	m.Watch(web, false)
	m.Held(web)
	do(t, web, listenFive)
	m.Freed(web)
	r.await(t, 1, "web: repaired 1 backlog 5 instead of")
}

// TestBeyondRepair: a fault for which there is no repair is reported once.
func TestBeyondRepair(t *testing.T) {
	fdtest.CheckLeaks(t)
	m, r := start(t)
	app, web := open(t, "app=unix://"+fdtest.SocketDir(t)+"/s"), open(t, "web=127.0.0.1:0")
	m.Watch(app, false)
	m.Watch(web, false)
	m.Held(app)
	for i := range 3 {
		do(t, app, shutDown)
		m.Held(app)
		do(t, web, shutDown)
		r.await(t, i+1, "web: repaired")
	}
	r.await(t, 1, "app: faulty 1 the socket of app was shut down by a worker and cannot be repaired")
	if is := m.Status(app); is.Repaired != 0 || !strings.Contains(is.Fault, "fdclient unbind app") {
		t.Errorf("Status: %+v", is)
	}
	m.Unwatch(app)
	if is := m.Status(app); is.Repaired != 0 || is.Fault != "" {
		t.Errorf("Status of one that is not watched: %+v", is)
	}
}

// TestStolenPort: while another process has the port, Status and the reports say which.
func TestStolenPort(t *testing.T) {
	fdtest.CheckLeaks(t)
	m, r := start(t)
	web := open(t, "web=127.0.0.1:0")
	do(t, web, shutDown)
	thief, err := net.Listen("tcp", web.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	m.Watch(web, false)
	who := fmt.Sprintf("pid %d ", os.Getpid())
	fdtest.Eventually(t, "it says which process", func() bool {
		fault := m.Status(web).Fault
		return strings.Contains(fault, who)
	})
	if lines := r.those("web: faulty 2 somebody else has " + web.Address()); len(lines) != 1 || !strings.Contains(lines[0], who) {
		t.Errorf("reported: %q", r.all())
	}
	_ = thief.Close()
	r.await(t, 1, "web: repaired 1 shut down")
	if is := m.Status(web); is.Repaired != 1 || is.Fault != "" {
		t.Errorf("Status: %+v", is)
	}
}

// TestMode: a changed O_NONBLOCK is reported once until it is right again, and the broker's own change is not.
func TestMode(t *testing.T) {
	fdtest.CheckLeaks(t)
	m, r := start(t)
	web := open(t, "web=127.0.0.1:0")
	m.Watch(web, false)
	flip := func(on bool) {
		do(t, web, func(fd int) error { return unix.SetNonblock(fd, on) })
		m.Held(web)
	}
	looked := 0
	look := func() {
		looked++
		do(t, web, shutDown)
		r.await(t, looked, "web: repaired")
	}
	flip(false)
	r.await(t, 1, "web: mode")
	look()
	if changed, err := m.SetMode(web, true); changed || err != nil {
		t.Errorf("reported already, but SetMode returns %t, %v", changed, err)
	}
	look()
	flip(true)
	r.await(t, 2, "web: mode")
	if changed, err := m.SetMode(web, false); changed || err != nil {
		t.Errorf("SetMode: %t, %v", changed, err)
	}
	look()
	r.await(t, 2, "web: mode")
	m.Close()
	flip(false)
	if changed, err := m.SetMode(web, false); !changed || err != nil {
		t.Errorf("a change that was not reported: SetMode returns %t, %v", changed, err)
	}
	if is, err := web.Blocking(); is || err != nil {
		t.Errorf("blocking: %t, %v", is, err)
	}
}

// TestUnwatch: after Unwatch workers may change their socket in any way.
func TestUnwatch(t *testing.T) {
	fdtest.CheckLeaks(t)
	m, r := start(t)
	web, other := open(t, "web=127.0.0.1:0"), open(t, "other=127.0.0.1:0")
	m.Watch(web, false)
	m.Watch(other, false)
	m.Held(web)
	m.Unwatch(web)
	m.Unwatch(web)
	do(t, web, shutDown)
	do(t, other, shutDown)
	m.Freed(web)
	r.await(t, 1, "other: repaired")
	if limitOf(t, web) != 0 || len(r.those("web")) > 0 {
		t.Errorf("it listens; reports: %q", r.all())
	}
}

// TestAny: a descriptor that need not be a socket is not looked at.
func TestAny(t *testing.T) {
	fdtest.CheckLeaks(t)
	m, _ := start(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	n, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := scmrights.NewFD(n)
	described, err := socket.Donation{Name: "pipe", Any: true}.Spec(fd)
	if err != nil {
		t.Fatal(err)
	}
	s, err := socket.Adopt(described, fd, socket.Foreign)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m.Watch(s, true)
	m.Held(s)
	if len(m.targets) != 0 {
		t.Error("it is watched")
	}
	if changed, err := m.SetMode(s, false); changed || err != nil {
		t.Errorf("SetMode: %t, %v", changed, err)
	}
	if blocking, err := s.Blocking(); blocking || err != nil {
		t.Errorf("blocking: %t, %v", blocking, err)
	}
}

// TestNil: a nil monitor does nothing but to set the mode.
func TestNil(t *testing.T) {
	var m *Monitor
	s := open(t, "web=127.0.0.1:0")
	m.Watch(s, false)
	m.Held(s)
	m.Freed(s)
	m.Unwatch(s)
	m.Close()
	if _, err := m.SetMode(s, true); err != nil {
		t.Error(err)
	}
	if is, _ := s.Blocking(); !is {
		t.Error("the mode was not set")
	}
}

// TestLoopIsBounded: a worker that does harm in a loop does not keep the monitor from other
// sockets, and of its incidents few are reported.
func TestLoopIsBounded(t *testing.T) {
	fdtest.CheckLeaks(t)
	m, r := start(t)
	web, other := open(t, "web=127.0.0.1:0"), open(t, "other=127.0.0.1:0")
	m.Watch(web, false)
	m.Watch(other, false)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				do(t, web, shutDown)
			}
		}
	}()
	fdtest.Eventually(t, "it is repaired again and again", func() bool {
		n := m.Status(web).Repaired
		return n >= 20
	})
	do(t, other, shutDown)
	r.await(t, 1, "other: repaired")
	close(stop)
	<-done
	n := m.Status(web).Repaired
	if told := len(r.those("web: repaired")); told > n/2 {
		t.Errorf("%d of %d incidents were reported", told, n)
	}
	fdtest.Eventually(t, "it listens", func() bool { return limitOf(t, web) > 0 })
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	fdtest.CheckLeaks(t)
	m, _ := start(t)
	var all sync.WaitGroup
	for range 4 {
		s := open(t, "web=127.0.0.1:0")
		all.Go(func() {
			for range 50 {
				m.Watch(s, false)
				m.Held(s)
				do(t, s, shutDown)
				m.Status(s)
				if _, err := m.SetMode(s, true); err != nil {
					t.Error(err)
				}
				m.Freed(s)
				m.Unwatch(s)
			}
		})
	}
	all.Go(func() {
		for range 100 {
			m.mu.Lock()
			m.arm(0)
			m.mu.Unlock()
		}
	})
	all.Wait()
	m.Close()
	m.Close()
}
