package socket_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

func TestInUseNamesHolder(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, test := range []struct {
		held string
		want []string // each with the port behind it
	}{
		{"a=127.0.0.1:0", []string{"b=127.0.0.1", "b=", "b=tcp4://"}},
		{"a=[::1]:0", []string{"b=[::1]", "b=", "b=tcp6://"}},
		{"a=:0", []string{"b=", "b=127.0.0.1", "b=[::1]", "b=tcp4://", "b=tcp6://"}},
		{"a=tcp4://:0", []string{"b=", "b=127.0.0.1"}},
		{"a=udp://:0", []string{"b=udp://", "b=udp://127.0.0.1", "b=udp6://[::1]"}},
		{"a=udp4://127.0.0.1:0", []string{"b=udp://127.0.0.1", "b=udp4://"}},
	} {
		cmd, addresses, end := hold(t, strings.TrimSuffix(test.held, "0")+privatePort(t))
		for _, spec := range test.want {
			spec += portOf(addresses[0])
			be := refused(t, spec+",blocking")
			want := fmt.Sprintf("cannot bind %s: address already in use by pid %d (%s)", spec, cmd.Process.Pid, helperCommand())
			if be.Error() != want || !errors.Is(be, unix.EADDRINUSE) || be.Spec != spec+",blocking" {
				t.Errorf("%s held: got %q, want %q", test.held, be, want)
			}
		}
		end()
	}
	_, addresses, end := hold(t, "a=tcp6://[::]:0")
	open(t, "b=tcp4://"+portOf(addresses[0])) // they do not conflict
	end()
	// Of the two holders of the port only one is in the way.
	lo := open(t, "a=127.0.0.1:0")
	cmd, _, end := hold(t, "b=127.0.0.2"+portOf(lo.Address()))
	if be := refused(t, "c=127.0.0.2"+portOf(lo.Address())); len(be.Holders) != 1 || be.Holders[0].PID != cmd.Process.Pid {
		t.Errorf("got %v", be)
	}
	end()
}

// privatePort returns a port that nobody has on any address. It is below those that the kernel gives for port 0
// (ip_local_port_range), so that no other test has it a moment later.
func privatePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(10000 + rand.IntN(20000))
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			continue
		}
		_ = l.Close()
		p, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			continue
		}
		_ = p.Close()
		return port
	}
	t.Fatal("no free port")
	return ""
}

func TestInUseNamesSeveral(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "a=127.0.0.1:0")
	var want []string
	for range 7 { // each inherits nothing, but is given a duplicate
		cmd := fdtest.Helper(t, "hold")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		f := file(t, sock)
		cmd.ExtraFiles = []*os.File{f}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		defer func() { _ = stdin.Close(); _ = cmd.Wait() }()
		want = append(want, fmt.Sprint(cmd.Process.Pid))
	}
	address := sock.Address()
	if be := refused(t, "b="+address); !strings.HasSuffix(be.Error(), "already bound by this broker under another name") {
		t.Errorf("got %v", be)
	}
	if err := sock.Close(); err != nil {
		t.Fatal(err)
	}
	be := refused(t, "b="+address)
	if len(be.Holders) != 5 || !strings.Contains(be.Error(), "in use by pids ") || !strings.HasSuffix(be.Error(), " and others") {
		t.Errorf("got %v", be)
	}
	for i, p := range be.Holders {
		if i > 0 && p.PID <= be.Holders[i-1].PID {
			t.Errorf("not in order: %v", be.Holders)
		}
		if p.PID != os.Getpid() && !strings.Contains(strings.Join(want, " "), fmt.Sprint(p.PID)) {
			t.Errorf("%d is none of %v", p.PID, want)
		}
	}
}

// An accepted connection keeps its port against those without SO_REUSEADDR only, so a broker can come back while a
// worker still serves.
func TestBindWhileConnectionsLive(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "a=127.0.0.1:0")
	dial(t, "tcp", sock.Address())
	a, err := listener(t, sock).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	be := refused(t, "b="+sock.Address())
	if len(be.Holders) != 1 || be.Holders[0].PID != os.Getpid() {
		t.Errorf("got %v", be)
	}
}

func TestRefusals(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, test := range []struct {
		spec, want string
		errno      error
	}{
		{"a=" + strings.Repeat("x", 64) + ".invalid:1", "cannot be resolved: no such host", nil},
		{"a=:0,device=nosuch0", "option device: no such device (there is no interface of that name)", unix.ENODEV},
		{"a=[fe80::1%nosuch0]:0", `there is no interface "nosuch0"`, unix.ENODEV},
		{"a=[fe80::1]:0", "a link-local address needs its interface: [fe80::1%INTERFACE]:0", unix.EINVAL},
		{"a=tcp6://[2001:db8::1]:0", "no interface of this machine has the address 2001:db8::1 (the option freebind", unix.EADDRNOTAVAIL},
		{"a=127.0.0.1:0,v6only=no,device=nosuch0", "cannot bind a=127.0.0.1:0: option device", unix.ENODEV},
	} {
		be := refused(t, test.spec)
		if !strings.Contains(be.Error(), test.want) {
			t.Errorf("%s: got %q, want it to have %q", test.spec, be, test.want)
		}
		if test.errno != nil && !errors.Is(be, test.errno) {
			t.Errorf("%s: %v is not %v", test.spec, be, test.errno)
		}
	}
}

func TestRefusalsWithoutPrivilege(t *testing.T) {
	const id = 65533
	held := open(t, "a=127.0.0.1:0")
	dir := fdtest.SocketDir(t) // mode 0700: not theirs
	readable := fdtest.SocketDir(t)
	own := fdtest.SocketDir(t)
	for path, mode := range map[string]os.FileMode{readable: 0o755, own: 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	_ = os.Chown(own, id, id)
	leaveStale(t, filepath.Join(readable, "stale"), unix.SOCK_STREAM)
	closed := open(t, "a=unix://"+filepath.Join(own, "closed")+",mode=0600")
	abstract := open(t, "a=unix://@fdbroker-test-abstract")
	specs := []string{
		"a=127.0.0.1:80",
		"b=" + held.Address(),
		"c=127.0.0.1:0,mark=1",
		"d=127.0.0.1:0,transparent",
		"e=unix://" + filepath.Join(dir, "s"),
		"f=unix://" + filepath.Join(readable, "s"),
		"g=unix://" + filepath.Join(readable, "stale"),
		"h=unix://" + filepath.Join(own, "s") + ",user=root",
		"i=unix://" + filepath.Join(own, "s") + ",group=root",
		"j=unix://" + closed.Address(),
		"k=unix://" + abstract.Address(),
		"l=unix://" + filepath.Join(own, "s") + ",mode=0666",
		"m=127.0.0.1:0,nodelay",
	}
	want := []string{
		"permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)",
		"address already in use by a socket of uid 0 (the broker cannot inspect its process: it is another user's (which needs CAP_SYS_PTRACE) or in another pid namespace)",
		"option mark: operation not permitted (needs CAP_NET_ADMIN)",
		"option transparent: operation not permitted (needs CAP_NET_ADMIN)",
		"permission denied (uid 65533 may not create a socket in " + dir + ")",
		"permission denied (uid 65533 may not create a socket in " + readable + ")",
		"permission denied (uid 65533 may not create a socket in " + readable + ")",
		"option user: operation not permitted (needs CAP_CHOWN)",
		"option group: operation not permitted (needs CAP_CHOWN)",
		"address already in use by a socket of uid 0 (the broker cannot inspect its process: it is another user's (which needs CAP_SYS_PTRACE) or in another pid namespace)",
		"address already in use by a socket of uid 0 (the broker cannot inspect its process: it is another user's (which needs CAP_SYS_PTRACE) or in another pid namespace)",
		"ok",
		"ok",
	}
	got := tryAs(t, id, specs...)
	if len(got) != len(want) {
		t.Fatalf("got %q", got)
	}
	for i := range want {
		full := want[i]
		if full != "ok" {
			head, _, _ := strings.Cut(specs[i], ",")
			full = "cannot bind " + head + ": " + full
		}
		if got[i] != full {
			t.Errorf("got  %q\nwant %q", got[i], full)
		}
	}
	if got := names(t, own); got != ".closed.fdbroker closed" {
		t.Errorf("left behind: %s", got)
	}
}
