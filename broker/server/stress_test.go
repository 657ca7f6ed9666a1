package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// 2000 clients of every bad kind, at once, cost 200 good ones nothing, and leave nothing behind, both if
// the kernel refuses their descriptors and if it does not.
func TestStress(t *testing.T) {
	for name, prepare := range map[string]func(*scmrights.FD){"guarded": func(*scmrights.FD) {}, "unguarded": unguard} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			s := &stress{T: t, over: make(chan struct{})}
			s.broker = startOn(t, server.Config{CallTimeout: fdtest.Long(time.Second), MaxMessage: 4096}, func(ln *scmrights.FD) {
				prepare(ln)
				s.refused = keepsOut(ln)
			}, "a=127.0.0.1:0", "b=127.0.0.1:0", "one=127.0.0.1:0,max=1")
			s.run(2000, 200)
		})
	}
}

// keepsOut reports whether the kernel refuses descriptors for connections that ln accepts.
func keepsOut(ln *scmrights.FD) (does bool) {
	_ = ln.Control(func(fd uintptr) {
		v, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS)
		does = err == nil && v == 0
	})
	return does
}

// stress is bad clients and good ones, at once.
type stress struct {
	*testing.T
	*broker
	refused bool          // descriptors cannot be sent
	over    chan struct{} // closed when the good clients have been served
}

// hostile is one kind of bad client. Its attack returns the error of the last send.
type hostile struct {
	name   string
	attack func(*net.UnixConn) error
	leave  func(*net.UnixConn) // nil: it reads until the broker ends the connection
	sent   atomic.Int32        // by how many of its kind
}

func (s *stress) run(bad, good int) {
	stays := s.client(s.T)
	stays.send(get("a")) // the broker has all its goroutines, and a pidfd of this process
	stays.got()
	stays.alive() // and serves this client
	fds, goroutines := len(fdtest.OpenFDs(s.T)), runtime.NumGoroutine()
	kinds := s.kinds()
	var hostiles, goods sync.WaitGroup
	for i := range bad {
		hostiles.Go(func() { s.meet(kinds[i%len(kinds)]) })
	}
	for i := range good {
		goods.Go(func() {
			if err := serveOne(s.path, i); err != nil {
				s.Errorf("good client %d: %v", i, err)
			}
		})
	}
	goods.Wait()
	close(s.over)
	hostiles.Wait()
	stays.alive()
	for _, k := range kinds {
		if k.attack != nil && k.sent.Load() == 0 {
			s.Errorf("%s: none was fast enough to send anything", k.name)
		}
	}
	s.held(s.T, "one", 0, 0)
	fdtest.Eventually(s.T, "descriptors and goroutines are back, while the broker serves", func() bool {
		return len(fdtest.OpenFDs(s.T)) <= fds && runtime.NumGoroutine() <= goroutines
	})
}

// meet lets one bad client connect and attack.
func (s *stress) meet(k *hostile) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: s.path})
	if err != nil {
		s.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if k.attack != nil {
		switch err := k.attack(c); {
		case err == nil:
			k.sent.Add(1)
		case !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET): // it was slow, or too much
			s.Errorf("%s: %v", k.name, err)
		}
	}
	if k.leave != nil {
		k.leave(c)
		return
	}
	for buf := make([]byte, 4096); ; {
		if _, err := c.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
			s.Errorf("%s: it is never disconnected", k.name)
			return
		} else if err != nil {
			return
		}
	}
}

// kinds returns the kinds of bad clients.
func (s *stress) kinds() []*hostile {
	says := func(text []byte) func(*net.UnixConn) error {
		return func(c *net.UnixConn) error {
			_, err := c.Write(text)
			return err
		}
	}
	getOne := getMore(protocol.GetParameters{Names: []string{"one"}, Wait: true})
	two, info := get("a", "b"), method(protocol.MethodGetInfo, nil)
	close := func(c *net.UnixConn) { _ = c.Close() }
	gone := func(c *net.UnixConn) { // by itself, and reads nothing
		if !hangsUp(c) {
			s.Error("it is never disconnected")
		}
	}
	return []*hostile{
		{name: "sends nothing"},
		{name: "gone at once", leave: close},
		{name: "garbage", attack: says([]byte("garbage\x00"))},
		{name: "nothing, ended", attack: says([]byte{0})},
		{name: "half a call", attack: says([]byte(`{"method":"io.fdb`))},
		{name: "half a call, gone", attack: says([]byte(`{"method":"io.fdb`)), leave: close},
		{name: "zeros", attack: says(make([]byte, 1<<16))},
		{name: "no end", attack: says(bytes.Repeat([]byte("x"), 1<<16))},
		{name: "invalid UTF-8", attack: says([]byte("{\"method\":\"io.fdbroker.\xff\"}\x00"))},
		{name: "unknown method", attack: func(c *net.UnixConn) error {
			_, err := c.Write(encode(s.T, method("io.fdbroker.None", nil)))
			_ = c.CloseWrite()
			return err
		}},
		{name: "gone before the reply", attack: says(encode(s.T, getOne)), leave: close},
		{name: "gone in a storm of calls", attack: says(bytes.Repeat(encode(s.T, two, method(protocol.MethodList, nil)), 30)), leave: close},
		{name: "calls and calls, and never reads", attack: s.storm(encode(s.T, info)), leave: gone},
		{name: "never reads descriptors", attack: says(encode(s.T, two, two, info)), leave: gone},
		{name: "leaves its sockets unread", attack: says(encode(s.T, two)), leave: func(*net.UnixConn) { <-s.over }},
		{name: "descriptors", attack: s.push(encode(s.T, info), 3)},
		{name: "many descriptors", attack: s.push(encode(s.T, info), s.most())},
	}
}

// storm sends m again and again until the broker ends the connection, which is no error.
func (s *stress) storm(m []byte) func(*net.UnixConn) error {
	return func(c *net.UnixConn) error {
		for n := 0; ; n++ {
			if _, err := c.Write(m); n > 0 && !errors.Is(err, os.ErrDeadlineExceeded) && err != nil {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
}

// push sends m with n descriptors, which arrives unless the kernel refuses it.
func (s *stress) push(m []byte, n int) func(*net.UnixConn) error {
	rights := unix.UnixRights(make([]int, n)...)
	return func(c *net.UnixConn) error {
		_, _, err := c.WriteMsgUnix(m, rights, nil)
		switch {
		case s.refused && errors.Is(err, unix.EPERM):
			return nil
		case s.refused && err == nil:
			return errors.New("descriptors could be sent")
		}
		return err
	}
}

// most returns how many descriptors each of some hundred clients can send at once. It is not only for root,
// and the kernel counts them for all (RLIMIT_NOFILE, unix(7)).
func (s *stress) most() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		s.Fatal(err)
	}
	return int(min(scmrights.MaxFDs, limit.Cur/400))
}

// serveOne is a good client: it must get the socket that it asks for.
func serveOne(path string, i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := scmrights.Dial(ctx, path)
	if err != nil {
		return err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Interrupt)()
	conn := protocol.NewConn(s, protocol.MaxReply, 2)
	defer conn.Discard()
	p := []protocol.GetParameters{{Names: []string{"a"}}, {Names: []string{"b", "a"}}, {Names: []string{"one"}, Wait: true}}[i%3]
	b, err := protocol.AppendCall(nil, protocol.Call{Method: protocol.MethodGet, More: true}, p)
	if err != nil {
		return err
	}
	if err := conn.Send(b); err != nil {
		return err
	}
	for {
		if m, ok := conn.Next(); ok {
			scmrights.CloseAll(m.FDs)
			r, err := protocol.DecodeReply(m.Bytes)
			if err == nil {
				err = r.Err
			}
			if err == nil && len(m.FDs) != len(p.Names) {
				err = fmt.Errorf("%d descriptors for %d names", len(m.FDs), len(p.Names))
			}
			return err
		}
		if err := conn.Fill(); err != nil {
			return err
		}
	}
}
