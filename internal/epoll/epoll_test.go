package epoll_test

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/fdbroker/fdbroker/internal/epoll"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { fdtest.Main(m, nil) }

// eventfd returns a counter, which can be read once something was written to it.
func eventfd(t *testing.T) *scmrights.FD {
	t.Helper()
	n, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	fd := scmrights.NewFD(n)
	t.Cleanup(func() { _ = fd.Close() })
	return fd
}

func write(t *testing.T, fd *scmrights.FD) {
	t.Helper()
	err := fd.Control(func(n uintptr) { _, _ = unix.Write(int(n), []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	if err != nil {
		t.Error(err)
	}
}

func TestPoller(t *testing.T) {
	fdtest.CheckLeaks(t)
	p, err := epoll.New("test")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const large, small = 1<<63 | 1<<31 | 5, 7
	a, b := eventfd(t), eventfd(t)
	if err := errors.Join(p.Add(a, unix.EPOLLIN, large), p.Add(b, unix.EPOLLIN, small)); err != nil {
		t.Fatal(err)
	}
	next := func() (ids []uint64) {
		t.Helper()
		err := p.Wait(func(id uint64, events uint32) {
			if events != unix.EPOLLIN {
				t.Errorf("events of %d: %x", id, events)
			}
			ids = append(ids, id)
		})
		if err != nil {
			t.Error(err)
		}
		slices.Sort(ids)
		return ids
	}
	go write(t, a) // Wait has to be woken
	if ids := next(); !slices.Equal(ids, []uint64{large}) {
		t.Errorf("first event: %v", ids)
	}
	write(t, b)
	if ids := next(); !slices.Equal(ids, []uint64{small, large}) {
		t.Errorf("level-triggered events: %v", ids)
	}
	if err := errors.Join(p.Mod(b, 0, small), p.Mod(a, unix.EPOLLIN|unix.EPOLLONESHOT, 8)); err != nil {
		t.Fatal(err)
	}
	if ids := next(); !slices.Equal(ids, []uint64{8}) {
		t.Errorf("after Mod: %v", ids)
	}
	if err := errors.Join(p.Mod(b, unix.EPOLLIN, small), p.Del(a)); err != nil {
		t.Fatal(err)
	}
	if ids := next(); !slices.Equal(ids, []uint64{small}) {
		t.Errorf("after Del: %v", ids)
	}
}

func TestPollerClose(t *testing.T) {
	fdtest.CheckLeaks(t)
	p, err := epoll.New("test")
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	go func() { waited <- p.Wait(func(uint64, uint32) {}) }()
	p.Close()
	p.Close()
	if err := <-waited; err == nil {
		t.Error("Wait after Close: no error")
	}
	if err := p.Add(eventfd(t), unix.EPOLLIN, 1); err == nil {
		t.Error("Add after Close: no error")
	}
	closed := eventfd(t)
	_ = closed.Close()
	q, err := epoll.New("test")
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if err := q.Add(closed, unix.EPOLLIN, 1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Add of a closed descriptor: %v", err)
	}
}
