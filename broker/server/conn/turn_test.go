package conn_test

import (
	"bytes"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/conn"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
)

// recorder answers nothing, and records the calls. It stops the loop after the last one.
type recorder struct {
	loop  *conn.Loop
	calls []byte // the first byte of each
	last  int
}

func (r *recorder) Caller(scmrights.Nonblocking, peer.Credentials) registry.Caller {
	return registry.Caller{Privileged: true}
}

func (r *recorder) Call(_ *conn.Conn, message []byte, _ []*scmrights.FD) error {
	if r.calls = append(r.calls, message[0]); len(r.calls) == r.last {
		r.loop.Stop()
	}
	return nil
}

func (r *recorder) Refused(*conn.Conn, error)   {}
func (r *recorder) Closed(*conn.Conn, bool)     {}
func (r *recorder) Paused(error, time.Duration) {}

// TestManyCalls: a client that sends many calls at once does not make another one wait for all of them.
func TestManyCalls(t *testing.T) {
	fdtest.CheckLeaks(t)
	const many = 200
	r := &recorder{last: many + 1}
	loop, err := conn.New(conn.Config{MaxClients: 9, MaxClientsPerUID: 9, MaxMessage: 9999, CallTimeout: time.Hour, Handler: r})
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	r.loop = loop
	ln, err := net.Listen("unix", fdtest.SocketDir(t)+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, calls := range [][]byte{bytes.Repeat([]byte("a\x00"), many), []byte("b\x00")} {
		c, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(calls); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := ln.(*net.UnixListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd *scmrights.FD
	_ = raw.Control(func(n uintptr) {
		d, err := unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fd = scmrights.NewFD(d)
	})
	defer fd.Close()
	if left, err := loop.Serve(fd); left > 0 || err != nil {
		t.Fatal(left, err)
	}
	if at := bytes.IndexByte(r.calls, 'b'); at < 0 || at > many/2 {
		t.Errorf("the other client's call came after %d others", at)
	}
}
