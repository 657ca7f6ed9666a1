//go:build linux

package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// fake is a control socket whose calls the test answers.
type fake struct {
	t    *testing.T
	path string
	ln   *net.UnixListener
}

func startFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, path: filepath.Join(fdtest.SocketDir(t), "c")}
	var err error
	if f.ln, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: f.path}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.ln.Close() })
	return f
}

func (f *fake) dialer() *broker.Dialer { return &broker.Dialer{Socket: f.path} }

// fakeConn is a connection of a client.
type fakeConn struct {
	t    *testing.T
	conn *net.UnixConn
}

// accept returns the next connection; the end of the test closes it.
func (f *fake) accept() fakeConn {
	f.t.Helper()
	c, err := f.ln.AcceptUnix()
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	return fakeConn{f.t, c}
}

// readCall reads one call and returns its method, or "" at the end.
func (c fakeConn) readCall() string {
	c.t.Helper()
	var b []byte
	one := make([]byte, 1)
	for {
		if _, err := c.conn.Read(one); err != nil {
			return ""
		}
		if one[0] == 0 {
			break
		}
		b = append(b, one[0])
	}
	var call protocol.Call
	if err := json.Unmarshal(b, &call); err != nil {
		c.t.Errorf("call %q: %v", b, err)
	}
	return call.Method
}

// send sends text with n descriptors, the first of a listening socket. It reports whether that
// worked: the client may have gone.
func (c fakeConn) send(text string, n int) bool {
	c.t.Helper()
	var fds []int
	if n > 0 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			c.t.Fatal(err)
		}
		defer ln.Close()
		rc, err := ln.(*net.TCPListener).SyscallConn()
		if err != nil {
			c.t.Fatal(err)
		}
		err = rc.Control(func(fd uintptr) {
			for range n {
				dup, derr := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
				if derr != nil {
					c.t.Error(derr)
					return
				}
				defer unix.Close(dup)
				fds = append(fds, dup)
			}
			_, _, err = c.conn.WriteMsgUnix([]byte(text), unix.UnixRights(fds...), nil)
		})
		return err == nil
	}
	_, err := c.conn.Write([]byte(text))
	return err == nil
}

// waitRead waits until the client has read all that was sent.
func (c fakeConn) waitRead() {
	c.t.Helper()
	rc, err := c.conn.SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	fdtest.Eventually(c.t, "all is read", func() bool {
		n := 0
		if err := rc.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
			c.t.Fatal(err)
		}
		return n == 0
	})
}

const end = "\x00"

// sockets returns a reply to Get with a socket for each NAME@INDEX.
func sockets(list ...string) string {
	reply := protocol.GetReply{Grant: 7}
	for _, s := range list {
		at := strings.IndexByte(s, '@')
		index := 0
		_, _ = fmt.Sscan(s[at+1:], &index)
		reply.Sockets = append(reply.Sockets, protocol.Socket{Name: s[:at], Network: "tcp", Address: "127.0.0.1:1", FileDescriptor: index})
	}
	b, _ := protocol.AppendReply(nil, reply, true)
	return string(b)
}

// TestBadBroker: if a broker answers wrongly, the caller gets an error that says how, and no
// descriptor stays open.
func TestBadBroker(t *testing.T) {
	anything := func(error) bool { return true }
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	remote := func(err error) bool { _, ok := errors.AsType[*protocol.RemoteError](err); return ok }
	for _, c := range []struct {
		name string
		send func(c fakeConn)
		want func(error) bool
	}{
		{"no sockets", func(c fakeConn) { c.send(sockets(), 0) }, is(broker.ErrMalformed)},
		{"too few sockets", func(c fakeConn) { c.send(sockets("a@0"), 1) }, is(broker.ErrMalformed)},
		{"too many sockets", func(c fakeConn) { c.send(sockets("a@0", "b@1", "c@2"), 3) }, is(broker.ErrMalformed)},
		{"another name", func(c fakeConn) { c.send(sockets("a@0", "c@1"), 2) }, is(broker.ErrMalformed)},
		{"another order", func(c fakeConn) { c.send(sockets("b@0", "a@1"), 2) }, is(broker.ErrMalformed)},
		{"index too large", func(c fakeConn) { c.send(sockets("a@0", "b@2"), 2) }, is(broker.ErrMalformed)},
		{"negative index", func(c fakeConn) { c.send(sockets("a@0", "b@-1"), 2) }, is(broker.ErrMalformed)},
		{"index twice", func(c fakeConn) { c.send(sockets("a@1", "b@1"), 2) }, is(broker.ErrMalformed)},
		{"no descriptors", func(c fakeConn) { c.send(sockets("a@0", "b@1"), 0) }, is(broker.ErrMalformed)},
		{"too few descriptors", func(c fakeConn) { c.send(sockets("a@0", "b@1"), 1) }, is(broker.ErrMalformed)},
		{"one descriptor more", func(c fakeConn) { c.send(sockets("a@0", "b@1"), 3) }, is(broker.ErrMalformed)},
		{"a message full of descriptors", func(c fakeConn) { c.send(sockets("a@0", "b@1"), 253) }, is(broker.ErrMalformed)},
		{"descriptors with every piece", func(c fakeConn) {
			text := sockets("a@0", "b@1")
			for i := range text {
				c.send(text[i:i+1], 3)
			}
		}, is(broker.ErrMalformed)},
		{"garbage", func(c fakeConn) { c.send("hello"+end, 2) }, is(broker.ErrMalformed)},
		{"no UTF-8", func(c fakeConn) { c.send("{\"error\":\"\xff\"}"+end, 2) }, is(broker.ErrMalformed)},
		{"nothing but an end", func(c fakeConn) { c.send(end, 2) }, is(broker.ErrMalformed)},
		{"another type", func(c fakeConn) { c.send(`{"parameters":{"sockets":7}}`+end, 2) }, is(broker.ErrMalformed)},
		{"parameters of another type", func(c fakeConn) { c.send(`{"parameters":7}`+end, 2) }, is(broker.ErrMalformed)},
		{"too large", func(c fakeConn) {
			c.send(`{"parameters":"`, 2)
			piece := strings.Repeat("x", 1<<16)
			for c.send(piece, 0) { // until the client closes the connection
			}
		}, is(broker.ErrMalformed)},
		{"half a message", func(c fakeConn) { c.send(`{"parameters":{`, 2) }, is(broker.ErrLost)},
		{"nothing", func(fakeConn) {}, is(broker.ErrLost)},
		{"an error", func(c fakeConn) {
			c.send(`{"error":"io.fdbroker.UnknownName","parameters":{"name":"a"}}`+end, 2)
		}, is(broker.ErrUnknownName)},
		{"an error without parameters", func(c fakeConn) {
			c.send(`{"error":"io.fdbroker.Denied"}`+end, 0)
		}, is(broker.ErrDenied)},
		{"an unknown error", func(c fakeConn) {
			c.send(`{"error":"io.fdbroker.NoSuchError","parameters":{"x":1}}`+end, 2)
		}, remote},
		{"an error of another type", func(c fakeConn) {
			c.send(`{"error":"io.fdbroker.UnknownName","parameters":{"name":7}}`+end, 0)
		}, remote},
		{"descriptors that are no sockets", func(c fakeConn) {
			r, w, err := os.Pipe()
			if err != nil {
				c.t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			a, b := openNumber(c.t, r), openNumber(c.t, w)
			_, _, _ = c.conn.WriteMsgUnix([]byte(sockets("a@0", "b@1")), unix.UnixRights(a, b), nil)
		}, anything},
	} {
		t.Run(c.name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			f := startFake(t)
			answer := func() {
				conn := f.accept()
				if conn.readCall() != protocol.MethodGet {
					t.Error("the call is not Get")
				}
				c.send(conn)
				_ = conn.conn.Close()
			}
			result := make(chan error)
			go func() {
				all, err := f.dialer().DialAll(context.Background(), "a", "b")
				if all != nil {
					err = errors.New("there are listeners")
				}
				result <- err
			}()
			answer()
			if err := <-result; err == nil || !c.want(err) {
				t.Errorf("DialAll: got %v", err)
			}
			client := &broker.Client{Socket: f.path}
			defer client.Close()
			go func() {
				sockets, err := client.Get(context.Background(), broker.GetOptions{}, "a", "b")
				for _, s := range sockets {
					_ = s.FD.Close()
				}
				result <- err
			}()
			answer()
			if err := <-result; c.name != "descriptors that are no sockets" && (err == nil || !c.want(err)) {
				t.Errorf("Get: got %v", err)
			}
		})
	}
}

// openNumber returns f's number, which is valid as long as f is open.
func openNumber(t *testing.T, f *os.File) (n int) {
	t.Helper()
	rc, err := f.SyscallConn()
	if err == nil {
		err = rc.Control(func(fd uintptr) { n = int(fd) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestBadBrokerList: a reply to List must not have descriptors.
func TestBadBrokerList(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := startFake(t)
	client := &broker.Client{Socket: f.path}
	defer client.Close()
	result := make(chan error)
	for descriptors, reply := range []string{`{"parameters":{"listeners":{}}}` + end, `{}` + end} {
		go func() {
			_, err := client.List(context.Background())
			result <- err
		}()
		c := f.accept()
		c.readCall()
		c.send(reply, descriptors)
		if err := <-result; !errors.Is(err, broker.ErrMalformed) {
			t.Errorf("got %v", err)
		}
		if c.readCall() != "" {
			t.Error("the connection is still used")
		}
	}
}
