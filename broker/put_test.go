//go:build linux

package broker_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// A socket that was put can be dialed, and stays when the client closes its descriptor.
func TestPut(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t)
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
		if d, err := unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			fd = scmrights.NewFD(d)
		}
	})
	defer fd.Close()
	c := b.client()
	l, err := c.Put(context.Background(), broker.PutOptions{Options: "max=3"}, "web", fd)
	if err != nil || l.Address != ln.Addr().String() || l.Max != 3 {
		t.Fatalf("got %+v, %v", l, err)
	}
	_ = ln.Close()
	_ = fd.Close()
	conn, err := net.Dial("tcp", l.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	served, err := b.dial("web").Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = served.Close()

	if _, err := c.Put(context.Background(), broker.PutOptions{}, "web", b.get("web").FD); !errors.Is(err, broker.ErrNameInUse) {
		t.Errorf("got %v", err)
	}
	n, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	memfd := scmrights.NewFD(n)
	defer memfd.Close()
	if _, err := c.Put(context.Background(), broker.PutOptions{}, "state", memfd); !errors.Is(err, broker.ErrBindFailed) {
		t.Errorf("got %v", err)
	}
	if l, err := c.Put(context.Background(), broker.PutOptions{Any: true}, "state", memfd); err != nil || l.Network != protocol.NetworkAny {
		t.Errorf("got %+v, %v", l, err)
	}
	if s := b.get("state"); s.Network != protocol.NetworkAny || s.Address != "memfd" {
		t.Errorf("got %+v", s)
	}
}

// Attach does not call find if the broker does not want the socket.
func TestAttachUnwanted(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	c := b.client()
	find := func(string, string) (broker.HandBack, error) {
		t.Error("it was asked for")
		return broker.HandBack{}, net.ErrClosed
	}
	for name, want := range map[string]error{"web": broker.ErrNameInUse, "wbe": broker.ErrUnknownName} {
		if err := c.Attach(context.Background(), name, find); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
