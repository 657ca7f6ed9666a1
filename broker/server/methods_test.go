package server_test

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

func (c *client) bind(specs ...string) (protocol.BindReply, error) {
	var r protocol.BindReply
	return r, c.call(protocol.MethodBind, protocol.BindParameters{Listeners: specs}, &r)
}

func (c *client) unbind(names ...string) error {
	return c.call(protocol.MethodUnbind, protocol.UnbindParameters{Names: names}, nil)
}

func TestBind(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	c := b.client(t)
	first, err := c.bind("a=127.0.0.1:0", "b=udp4://127.0.0.1:0,max=3")
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Listeners) != 2 || first.Listeners[0].Name != "a" || first.Listeners[1].Max != 3 ||
		strings.HasSuffix(first.Listeners[0].Address, ":0") || !first.Listeners[1].Bytes {
		t.Errorf("got %+v", first)
	}
	again, err := c.bind("a=127.0.0.1:0", "c=127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if again.Listeners[0].Cookie != first.Listeners[0].Cookie {
		t.Error("the same spec made another socket")
	}
	_, err = c.bind("d=127.0.0.1:0", "a=127.0.0.1:0,max=1")
	if e, ok := errors.AsType[*protocol.NameInUseError](err); !ok || e.Name != "a" || e.Spec != "a=127.0.0.1:0" {
		t.Errorf("another spec: %v", err)
	}
	if _, err = c.bind("e=127.0.0.1:0", "e=127.0.0.1:0,max=1"); !errors.Is(err, protocol.ErrNameInUse) {
		t.Errorf("two specs of one name: %v", err)
	}
	if n := len(b.Listeners()); n != 3 {
		t.Errorf("%d listeners", n)
	}
	for _, bad := range []any{nil, protocol.BindParameters{}} {
		if _, ok := errors.AsType[*protocol.InvalidParameterError](c.call(protocol.MethodBind, bad, nil)); !ok {
			t.Error("no InvalidParameter")
		}
	}
}

// An error names every spec that fails, and none of the others stays bound.
func TestBindFailed(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	c := b.client(t)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	path := fdtest.SocketDir(t) + "/s"
	_, err = c.bind("ok=unix://"+path, "used="+ln.Addr().String(), "dir=unix:///nonexistent/s")
	failed, ok := errors.AsType[*protocol.BindFailedError](err)
	if !ok || len(failed.Failures) != 2 {
		t.Fatalf("got %v", err)
	}
	used := failed.Failures[0]
	if used.Spec != "used="+ln.Addr().String() || used.Errno != int(unix.EADDRINUSE) || len(used.Processes) != 1 || used.Processes[0].PID != os.Getpid() {
		t.Errorf("got %+v", used)
	}
	if dir := failed.Failures[1]; dir.Errno != int(unix.ENOENT) || !strings.Contains(dir.Message, "/nonexistent") {
		t.Errorf("got %+v", dir)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket is left: %v", err)
	}
	_, err = c.bind("ok=127.0.0.1:0", "one", "two=")
	if failed, ok := errors.AsType[*protocol.BindFailedError](err); !ok || len(failed.Failures) != 2 || failed.Failures[0].Spec != "one" {
		t.Errorf("specs that are none: %v", err)
	}
	if n := len(b.Listeners()); n != 0 {
		t.Errorf("%d listeners", n)
	}
}

func TestMaxNames(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{MaxNames: 2}, "a=127.0.0.1:0")
	c := b.client(t)
	_, err := c.bind("b=127.0.0.1:0", "c=127.0.0.1:0")
	if l, ok := errors.AsType[*protocol.LimitError](err); !ok || l.Max != 2 {
		t.Errorf("got %v", err)
	}
	if _, err := c.bind("a=127.0.0.1:0", "b=127.0.0.1:0"); err != nil {
		t.Error(err)
	}
}

func TestUnbind(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := fdtest.SocketDir(t) + "/s"
	b := start(t, server.Config{}, "a=unix://"+path, "b=127.0.0.1:0")
	c := b.client(t)
	c.send(get("a"))
	_, fds := c.got()
	err := c.unbind("a", "none")
	if e, ok := errors.AsType[*protocol.UnknownNameError](err); !ok || e.Name != "none" || !slices.Equal(e.Names, []string{"a", "b"}) {
		t.Errorf("got %v", err)
	}
	b.held(t, "a", 1, 0)
	if err := c.unbind("a", "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the path is left: %v", err)
	}
	if len(b.Listeners()) != 1 || len(c.list().Holders) != 0 {
		t.Errorf("left: %+v", c.list())
	}
	fileListener(t, fds[0].File) // still listens, for its holder
	if err := c.unbind(); err == nil {
		t.Error("unbinding nothing: no error")
	}
	c.send(get("a"))
	if err := c.refused(); !errors.Is(err, protocol.ErrUnknownName) {
		t.Error(err)
	}
}

func TestService(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	c := b.client(t)
	var info protocol.Info
	if err := c.call(protocol.MethodGetInfo, nil, &info); err != nil {
		t.Fatal(err)
	}
	if info.Version != "test" || info.Product != "fdbroker" || len(info.Interfaces) != 2 {
		t.Errorf("got %+v", info)
	}
	for _, name := range info.Interfaces {
		var r protocol.InterfaceReply
		if err := c.call(protocol.MethodGetInterfaceDescription, protocol.InterfaceParameters{Interface: name}, &r); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(r.Description, "interface "+name+"\n") {
			t.Errorf("%s: got %q", name, r.Description)
		}
	}
	err := c.call(protocol.MethodGetInterfaceDescription, protocol.InterfaceParameters{Interface: "a.b"}, nil)
	if e, ok := errors.AsType[*protocol.InterfaceNotFoundError](err); !ok || e.Interface != "a.b" {
		t.Errorf("got %v", err)
	}
	err = c.call(protocol.MethodGetInterfaceDescription, nil, nil)
	if e, ok := errors.AsType[*protocol.InvalidParameterError](err); !ok || e.Parameter != "interface" {
		t.Errorf("got %v", err)
	}
}
