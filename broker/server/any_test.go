package server_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// With any, put takes any descriptor, and hands it out as it is.
func TestPutAny(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	c := b.client(t)
	r, w := pipe(t)
	n, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	memfd := scmrights.NewFD(n)
	defer memfd.Close()
	n, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	eventfd := scmrights.NewFD(n)
	defer eventfd.Close()
	ln, _ := listening(t)
	for kind, fd := range map[string]*scmrights.FD{"pipe": r, "memfd": memfd, "eventfd": eventfd, "socket": ln} {
		reply, err := c.put(protocol.PutParameters{Name: kind, Any: true, Options: "allow=any"}, fd)
		if err != nil {
			t.Fatal(err)
		}
		if l := reply.Listener; l.Network != protocol.NetworkAny || l.Address != kind || l.Queue != nil || l.Blocking == (kind == "socket") {
			t.Errorf("got %+v", l)
		}
		if _, err := c.put(protocol.PutParameters{Name: kind, Any: true}, fd); !errors.Is(err, protocol.ErrNameInUse) {
			t.Errorf("a second %s: %v", kind, err)
		}
	}
	c.send(get("pipe", "memfd"))
	reply, fds := c.got()
	if s := reply.Sockets; s[0].Network != protocol.NetworkAny || s[0].Address != "pipe" || s[1].Address != "memfd" {
		t.Errorf("got %+v", s)
	}
	_ = w.Control(func(n uintptr) { _, _ = unix.Write(int(n), []byte("x")) })
	_ = fds[0].Control(func(n uintptr) {
		if got, err := unix.Read(int(n), make([]byte, 8)); got != 1 {
			t.Errorf("read %d bytes, %v", got, err)
		}
	})
	// A configuration does not change it.
	if _, err := b.Reload(nil, server.ReloadOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := b.Reload([]spec.Spec{parse(t, "pipe=127.0.0.1:0")}, server.ReloadOptions{}); !errors.Is(err, protocol.ErrNameInUse) {
		t.Errorf("got %v", err)
	}
	if n := len(b.Listeners()); n != 4 {
		t.Errorf("%d are left", n)
	}
}
