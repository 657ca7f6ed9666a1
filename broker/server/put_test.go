package server_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// listening returns the descriptor of a new listener, and its address.
func listening(t testing.TB) (*scmrights.FD, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	rc, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd *scmrights.FD
	_ = rc.Control(func(n uintptr) {
		d, derr := unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0)
		if derr != nil {
			t.Error(derr)
		}
		fd = scmrights.NewFD(d)
	})
	t.Cleanup(func() { _ = fd.Close() })
	return fd, ln.Addr().String()
}

// pipe returns both ends of a pipe.
func pipe(t testing.TB) (r, w *scmrights.FD) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w = scmrights.NewFD(p[0]), scmrights.NewFD(p[1])
	t.Cleanup(func() { scmrights.CloseAll([]*scmrights.FD{r, w}) })
	return r, w
}

func put(p protocol.PutParameters) call { return method(protocol.MethodPut, p) }

// sendWith sends a call with descriptors.
func (c *client) sendWith(k call, fds ...*scmrights.FD) error {
	c.t.Helper()
	return c.conn.Send(encode(c.t, k), fds...)
}

// put makes a Put, and then sends fd. It returns the last reply.
func (c *client) put(p protocol.PutParameters, fd *scmrights.FD) (reply protocol.PutReply, err error) {
	c.t.Helper()
	if err := c.call(protocol.MethodPut, p, &reply); err != nil || reply.Listener != nil {
		return reply, errors.Join(err, errListener(reply))
	}
	p.FileDescriptor = new(0)
	if err := c.sendWith(put(p), fd); err != nil {
		c.t.Fatal(err)
	}
	r, _ := c.reply()
	if r.Err != nil {
		return reply, r.Err
	}
	return reply, protocol.DecodeParameters(r.Parameters, &reply)
}

func errListener(r protocol.PutReply) error {
	if r.Listener == nil {
		return nil
	}
	return errors.New("a listener before there was a descriptor")
}

// A socket that another program has made is a listener like any other.
func TestPut(t *testing.T) {
	fdtest.CheckLeaks(t)
	for name, begin := range map[string]func() *broker{
		"guarded":   func() *broker { return start(t, server.Config{}) },
		"unguarded": func() *broker { return startOn(t, server.Config{}, unguard) },
	} {
		t.Run(name, func(t *testing.T) {
			b := begin()
			c := b.client(t)
			fd, address := listening(t)
			reply, err := c.put(protocol.PutParameters{Name: "web", Options: "max=1"}, fd)
			if err != nil {
				t.Fatal(err)
			}
			l := reply.Listener
			if l.Name != "web" || l.Network != "tcp" || l.Address != address || l.Cookie != cookie(t, fd) || l.Max != 1 || l.Blocking {
				t.Errorf("got %+v, want web at %s", l, address)
			}
			c.send(get("web"))
			if _, fds := c.got(); cookie(t, fds[0]) != cookie(t, fd) {
				t.Error("another socket was handed out")
			}
			// The same socket again changes nothing, and another one is refused.
			if _, err := c.put(protocol.PutParameters{Name: "web", Options: "max=1"}, fd); err != nil {
				t.Error(err)
			}
			if b.listener(t, "web").Holders != 1 {
				t.Error("its holder is gone")
			}
			other, _ := listening(t)
			if _, err := c.put(protocol.PutParameters{Name: "web"}, other); !errors.Is(err, protocol.ErrNameInUse) {
				t.Errorf("got %v", err)
			}
			if err := c.call(protocol.MethodUnbind, protocol.UnbindParameters{Names: []string{"web"}}, nil); err != nil {
				t.Error(err)
			}
			if n := len(b.logs.lines(`"put"`, `"name":"web"`, fmt.Sprint(os.Getpid()))); n != 2 {
				t.Errorf("%d lines name the process that put it", n)
			}
		})
	}
}

// O_NONBLOCK and the length of the queue stay as they are unless the call says otherwise, because the
// program that made the socket may be using it.
func TestPutLeavesTheSocketAlone(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	c := b.client(t)
	for options, blocking := range map[string]bool{"": true, "backlog=9": true, "blocking=no": false} {
		fd, _ := listening(t)
		setBlocking(t, fd, true)
		_ = fd.Control(func(n uintptr) { _ = unix.Listen(int(n), 5) })
		if _, err := c.put(protocol.PutParameters{Name: "web", Options: options}, fd); err != nil {
			t.Fatal(err)
		}
		if is := statusFlags(t, fd)&unix.O_NONBLOCK == 0; is != blocking {
			t.Errorf("%s: blocking is %v", options, is)
		}
		l, limit := b.listener(t, "web"), int64(5)
		if options == "backlog=9" {
			limit = 9
		}
		if *l.Limit != limit || l.Blocking != blocking || l.Flipped {
			t.Errorf("%s: got %+v", options, l)
		}
		if err := b.Unbind("web"); err != nil {
			t.Fatal(err)
		}
	}
}

// A descriptor that cannot be a listener's is refused, with a line that says why, and closed.
func TestPutRefused(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{MaxNames: 1}, "a=127.0.0.1:0")
	c := b.client(t)
	r, _ := pipe(t)
	n, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unbound := scmrights.NewFD(n)
	defer unbound.Close()
	if _, err := c.put(protocol.PutParameters{Name: "x"}, r); !errors.Is(err, protocol.ErrLimitReached) {
		t.Errorf("got %v", err)
	}
	if err := b.Unbind("a"); err != nil {
		t.Fatal(err)
	}
	for want, p := range map[string]struct {
		protocol.PutParameters
		fd *scmrights.FD
	}{
		`"x": the descriptor that was passed is not a socket`: {protocol.PutParameters{Name: "x"}, r},
		`"x": the socket that was passed has no address`:      {protocol.PutParameters{Name: "x"}, unbound},
		`the name is empty`:            {protocol.PutParameters{}, r},
		`there is no option "frob"`:    {protocol.PutParameters{Name: "x", Options: "frob"}, r},
		`option backlog is for`:        {protocol.PutParameters{Name: "x", Options: "backlog=1", Any: true}, r},
		"there is a control character": {protocol.PutParameters{Name: "x", Options: "allow=\n"}, r},
	} {
		_, err := c.put(p.PutParameters, p.fd)
		if !errors.Is(err, protocol.ErrBindFailed) || !strings.HasPrefix(err.Error(), "cannot put ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if n := len(b.Listeners()); n != 0 {
		t.Errorf("%d listeners", n)
	}
	other := b.spawn(t, 1234, 1234)
	if err := other.call(put(protocol.PutParameters{Name: "x"})); !errors.Is(err, protocol.ErrDenied) {
		t.Errorf("another user: %v", err)
	}
}

// A Put opens a window for one descriptor, with the next message, and nothing more.
func TestPutTakesOneDescriptor(t *testing.T) {
	fdtest.CheckLeaks(t)
	t.Run("guarded", func(t *testing.T) { putTakesOne(t, start(t, server.Config{})) })
	t.Run("unguarded", func(t *testing.T) { putTakesOne(t, startOn(t, server.Config{}, unguard)) })
}

func putTakesOne(t *testing.T, b *broker) {
	r, w := pipe(t)
	p := protocol.PutParameters{Name: "x", Any: true, FileDescriptor: new(0)}
	ask := protocol.PutParameters{Name: "x", Any: true}
	for name, use := range map[string]func(c *client) error{
		"with two": func(c *client) error { return c.sendWith(put(p), r, w) },
		"after another call": func(c *client) error {
			c.alive()
			return c.sendWith(put(p), r)
		},
		"with a call that takes none": func(c *client) error {
			return c.sendWith(get("x"), r)
		},
		"with the wrong index": func(c *client) error {
			return c.sendWith(put(protocol.PutParameters{Name: "x", Any: true, FileDescriptor: new(1)}), r)
		},
		"without the index": func(c *client) error { return c.sendWith(put(ask), r) },
		"index, and none":   func(c *client) error { return c.sendWith(put(p)) },
	} {
		t.Run(name, func(t *testing.T) {
			c := b.client(t)
			if err := c.call(protocol.MethodPut, ask, nil); err != nil {
				t.Fatal(err)
			}
			switch err := use(c); {
			case errors.Is(err, unix.EPERM): // SO_PASSRIGHTS, Linux 6.16
				c.alive()
			case err != nil:
				t.Fatal(err)
			default:
				t.Log(c.refused())
			}
			if n := len(b.Listeners()); n != 0 {
				t.Errorf("%d listeners", n)
			}
			b.client(t).alive()
		})
	}
	c := b.client(t)
	if err := c.sendWith(put(p), r); err == nil {
		t.Log(c.refused()) // unguarded
	} else if !errors.Is(err, unix.EPERM) {
		t.Errorf("unasked: %v", err)
	}
}

// TestPutTwice: a socket has one name, and an address has one listener.
func TestPutTwice(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "svc3=127.0.0.1:0")
	c := b.client(t)
	ln, _ := listening(t)
	if _, err := c.put(protocol.PutParameters{Name: "one"}, ln); err != nil {
		t.Fatal(err)
	}
	_, err := c.put(protocol.PutParameters{Name: "two"}, ln)
	if !errors.Is(err, protocol.ErrBindFailed) || !strings.Contains(err.Error(), `already bound by this broker as "one"`) {
		t.Errorf("put again: got %v", err)
	}
	if err := b.Bind(parse(t, "x="+b.listener(t, "svc3").Address)); err == nil || !strings.Contains(err.Error(), `already bound by this broker as "svc3"`) {
		t.Errorf("bind: got %v", err)
	}
	if err := b.Bind(parse(t, "x=:"+portOf(b.listener(t, "one").Address)[1:])); err == nil || !strings.Contains(err.Error(), `already bound by this broker as "one"`) {
		t.Errorf("bind: got %v", err)
	}
}
