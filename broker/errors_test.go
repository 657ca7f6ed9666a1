//go:build linux

package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// dialError makes a Dial that must fail, and checks what is common to all failures.
func dialError(t *testing.T, d *broker.Dialer, want error, names ...string) error {
	t.Helper()
	all, err := d.DialAll(context.Background(), names...)
	if !errors.Is(err, want) || all != nil {
		t.Fatalf("got %v, %v, want %v", all, err, want)
	}
	return err
}

// contains checks that err's text has all words.
func contains(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not tell %q", err, w)
		}
	}
}

func TestErrUnknownName(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0", "adm=127.0.0.1:0")
	err := dialError(t, b.dialer(), broker.ErrUnknownName, "web", "wbe")
	contains(t, err, `"wbe"`, "adm, web")
	unknown, ok := errors.AsType[*protocol.UnknownNameError](err)
	if !ok || unknown.Name != "wbe" || !slices.Equal(unknown.Names, []string{"adm", "web"}) {
		t.Errorf("got %#v", err)
	}
	b.waitHolders("web", 0)
}

func TestErrDenied(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0", "all=127.0.0.1:0,allow=any")
	if err := os.Chmod(filepath.Dir(b.path), 0o755); err != nil {
		t.Fatal(err)
	}
	const somebody = 54321
	asUser(t, somebody, func() {
		d := b.dialer()
		ln, err := d.Dial(context.Background(), "web")
		if !errors.Is(err, broker.ErrDenied) || ln != nil {
			t.Errorf("got %v, %v", ln, err)
			return
		}
		contains(t, err, `"web"`, "uid 54321 may not get it")
		if _, err := d.DialAll(context.Background(), "all", "web"); !errors.Is(err, broker.ErrDenied) {
			t.Errorf("all or none: %v", err)
		}
		if ln, err := d.Dial(context.Background(), "all"); err != nil {
			t.Errorf("allow=any: %v", err)
		} else {
			_ = ln.Close()
		}
		c := broker.Client{Socket: b.path}
		defer c.Close()
		if _, err := c.Bind(context.Background(), "x=127.0.0.1:0"); !errors.Is(err, broker.ErrDenied) {
			t.Errorf("Bind: %v", err)
		}
		if err := c.Unbind(context.Background(), "all"); !errors.Is(err, broker.ErrDenied) {
			t.Errorf("Unbind: %v", err)
		}
		if list, err := c.List(context.Background()); err != nil || len(list.Listeners) != 1 || list.Listeners[0].Name != "all" {
			t.Errorf("List: %v, %v", list, err)
		}
	})
	b.waitHolders("web", 0)
	b.waitHolders("all", 0)
}

func TestErrFull(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0,max=1", "adm=127.0.0.1:0")
	ln := b.dial("web")
	err := dialError(t, b.dialer(), broker.ErrFull, "adm", "web")
	contains(t, err, `"web"`, "max=1", fmt.Sprintf("pid %d", os.Getpid()))
	b.waitHolders("adm", 0)
	_ = ln.Close()
	_ = b.dial("web").Close() // at once: a place is free as soon as Close has returned
}

func TestErrConflict(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0,blocking", "adm=127.0.0.1:0")
	holder := b.get("web")
	err := dialError(t, b.dialer(), broker.ErrConflict, "adm", "web")
	contains(t, err, `"web"`, "held blocking", fmt.Sprintf("pid %d", os.Getpid()))
	b.waitHolders("adm", 0)
	if l := b.listener("web"); !l.Blocking || l.Flipped {
		t.Errorf("blocking %v, flipped %v", l.Blocking, l.Flipped)
	}
	_ = holder
}

// TestBlockingListener: the broker makes a blocking socket without other holders
// non-blocking, for as long as it is held.
func TestBlockingListener(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0,blocking")
	ln := b.dial("web")
	if b.listener("web").Blocking {
		t.Error("still blocking")
	}
	go answer(ln, "hello")
	if got := ask(t, ln.Addr()); got != "hello" {
		t.Errorf("got %q", got)
	}
	_ = ln.Close()
	b.waitHolders("web", 0)
	if !b.listener("web").Blocking {
		t.Error("not blocking again")
	}
}

func TestErrLimitReached(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	b := startBrokerAt(t, path, server.Config{MaxClients: 1, MaxNamesInCall: 2}, "a=127.0.0.1:0", "b=127.0.0.1:0", "c=127.0.0.1:0")
	ln := b.dial("a")
	contains(t, dialError(t, b.dialer(), broker.ErrLimitReached, "b"), "clients", "1")
	_ = ln.Close()
	// The place of a connection is free when the broker has seen its end.
	var err error
	fdtest.Eventually(t, "there is a place", func() bool {
		_, err = b.dialer().DialAll(context.Background(), "a", "b", "c")
		return !strings.Contains(err.Error(), "clients")
	})
	if !errors.Is(err, broker.ErrLimitReached) {
		t.Errorf("got %v", err)
	}
	contains(t, err, "names in one call", "2")
}

func TestErrNoBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	err := dialError(t, &broker.Dialer{Socket: path}, broker.ErrNoBroker, "web")
	contains(t, err, path, "no such file or directory")
	if none, ok := errors.AsType[*broker.NoBrokerError](err); !ok || !slices.Equal(none.Paths, []string{path}) || len(none.Errs) != 1 {
		t.Errorf("got %#v", err)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}

	b := startBrokerAt(t, path, server.Config{})
	asUser(t, 54321, func() { // the directory is the test's alone
		_, err = b.dialer().Dial(context.Background(), "web")
	})
	if !errors.Is(err, broker.ErrNoBroker) || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v", err)
	}
	contains(t, err, path, "permission denied")
}

// TestNotAPath: a fault that no broker can mend is not ErrNoBroker, and Wait does not wait for
// its end.
func TestNotAPath(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := "/" + strings.Repeat("x", 200)
	for _, wait := range []bool{false, true} {
		d := broker.Dialer{Socket: path, Wait: wait}
		_, err := d.Dial(context.Background(), "web")
		if err == nil || errors.Is(err, broker.ErrNoBroker) {
			t.Fatalf("got %v", err)
		}
		contains(t, err, path)
	}
}

// TestNoDescriptors: a process that may open no more files gets an error at once, and keeps
// nothing open, whichever descriptor was the one too many.
func TestNoDescriptors(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	start(t, "broker", path, "web=127.0.0.1:0") // elsewhere: it needs descriptors too
	d := &broker.Dialer{Socket: path, Wait: true}
	failed := 0
	for spare := 0; ; spare++ {
		restore := leave(t, spare)
		ln, err := d.Dial(context.Background(), "web")
		restore()
		if err == nil {
			_ = ln.Close()
			break
		}
		failed++
		if spare == 0 && !errors.Is(err, unix.EMFILE) || errors.Is(err, broker.ErrNoBroker) {
			t.Errorf("with %d to open: %v", spare, err)
		}
	}
	if failed < 3 { // the connection, the received descriptor, and its duplicate by the net package
		t.Errorf("only %d attempts failed", failed)
	}
	c := broker.Client{Socket: path}
	defer c.Close()
	fdtest.Eventually(t, "nobody holds it", func() bool {
		list, err := c.List(context.Background())
		return err == nil && len(list.Holders) == 0
	})
}

// leave lets this process open n more descriptors until restore is called.
func leave(t *testing.T, n int) (restore func()) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	lower := limit
	for lower.Cur = 0; n >= 0; lower.Cur++ {
		if _, err := unix.FcntlInt(uintptr(lower.Cur), unix.F_GETFD, 0); err == nil {
			continue
		}
		if n == 0 {
			break
		}
		n--
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPaths: where a client looks for a broker.
func TestPaths(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(dir, "fdbroker", "control")
	tried := func() []string {
		_, err := broker.Dial("no-such-name")
		if none, ok := errors.AsType[*broker.NoBrokerError](err); ok {
			return none.Paths
		}
		if errors.Is(err, broker.ErrUnknownName) {
			return []string{"a broker"}
		}
		t.Errorf("got %v", err)
		return nil
	}
	check := func(what string, got []string, want ...string) {
		t.Helper()
		if slices.Equal(got, []string{"a broker"}) {
			t.Logf("%s: this machine has a broker", what)
			return
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: tried %q, want %q", what, got, want)
		}
	}
	const system = "/run/fdbroker/control"
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("FDBROKER_SOCKET", "/nowhere/c")
	check("FDBROKER_SOCKET", tried(), "/nowhere/c")
	t.Setenv("FDBROKER_SOCKET", "")
	if os.Getuid() != 0 {
		check("XDG_RUNTIME_DIR", tried(), own, system)
		return
	}
	check("root", tried(), system)
	var user, stale, up []string
	asUser(t, 54321, func() { user = tried() })
	check("XDG_RUNTIME_DIR", user, own, system)

	// If a broker of this user has crashed, the client does not turn to the system's.
	if err := os.Mkdir(filepath.Dir(own), 0o755); err != nil {
		t.Fatal(err)
	}
	leaveSocket(t, own)
	asUser(t, 54321, func() { stale = tried() })
	check("one that has crashed", stale, own)
	if err := os.Remove(own); err != nil {
		t.Fatal(err)
	}
	startBrokerAt(t, own, server.Config{})
	asUser(t, 54321, func() { up = tried() })
	if !slices.Equal(up, []string{"a broker"}) {
		t.Errorf("tried %q", up)
	}
}

// leaveSocket leaves the path of a closed socket, which every user may connect to.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestDialPaths(t *testing.T) {
	const system = "/run/fdbroker/control"
	for _, c := range []struct {
		name string
		uid  int
		env  map[string]string
		want []string
	}{
		{"root", 0, nil, []string{system}},
		{"root ignores XDG_RUNTIME_DIR", 0, map[string]string{"XDG_RUNTIME_DIR": "/r"}, []string{system}},
		{"root, named", 0, map[string]string{"FDBROKER_SOCKET": "/s"}, []string{"/s"}},
		{"user", 1, map[string]string{"XDG_RUNTIME_DIR": "/r"}, []string{"/r/fdbroker/control", system}},
		{"user without", 1, nil, []string{system}},
		{"user, named", 1, map[string]string{"XDG_RUNTIME_DIR": "/r", "FDBROKER_SOCKET": "/s"}, []string{"/s"}},
		{"abstract", 1, map[string]string{"FDBROKER_SOCKET": "@s"}, []string{"@s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := protocol.DialPaths(c.uid, func(k string) string { return c.env[k] })
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestDialErrors: the error of each method of a Dialer says once what was called, and at which control socket.
func TestDialErrors(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0", "ntp=udp://127.0.0.1:0")
	d, none := b.dialer(), &broker.Dialer{Socket: filepath.Join(t.TempDir(), "none")}
	ctx := context.Background()
	late, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	long := &broker.Dialer{Socket: "/" + strings.Repeat("x", 200)}
	for _, c := range []struct {
		dial func() error
		want string // what it begins with
		is   error
	}{
		{func() error { _, err := d.Dial(ctx, "wbe"); return err },
			`broker.Dial "wbe" at ` + b.path + `: no listener is called "wbe"`, broker.ErrUnknownName},
		{func() error { _, err := d.DialPacket(ctx, "wbe"); return err },
			`broker.DialPacket "wbe" at ` + b.path + `: no listener is called "wbe"`, broker.ErrUnknownName},
		{func() error { _, err := d.DialAll(ctx, "web", "wbe"); return err },
			`broker.DialAll "web", "wbe" at ` + b.path + `: no listener is called "wbe"`, broker.ErrUnknownName},
		{func() error { _, err := d.DialPackets(ctx, "web"); return err },
			`broker.DialPackets "web" at ` + b.path + `: web (tcp 127.0.0.1:`, nil},
		{func() error { _, err := d.Dial(ctx, "ntp"); return err },
			`broker.Dial "ntp" at ` + b.path + `: ntp (udp 127.0.0.1:`, nil},
		{func() error { _, err := d.DialAll(ctx); return err }, `broker.DialAll: no name`, nil},
		{func() error { _, err := none.Dial(ctx, "web"); return err },
			`broker.Dial "web": no broker answers at ` + none.Socket + ` (no such file`, broker.ErrNoBroker},
		{func() error {
			_, err := (&broker.Dialer{Socket: none.Socket, Wait: true}).Dial(late, "web")
			return err
		}, `broker.Dial "web": context deadline exceeded: no broker answers at ` + none.Socket, broker.ErrNoBroker},
		{func() error { _, err := long.Dial(ctx, "web"); return err }, `broker.Dial "web": connect to the control socket /xx`, unix.EINVAL},
	} {
		err := c.dial()
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("got  %v\nwant %s...", err, c.want)
		}
		for _, once := range []string{"broker.", b.path, none.Socket} {
			if err != nil && strings.Count(err.Error(), once) > 1 {
				t.Errorf("twice %q: %v", once, err)
			}
		}
	}
	b.waitHolders("web", 0)
	b.waitHolders("ntp", 0)
}
