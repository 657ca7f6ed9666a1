package socket_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"hold": holdHelper, "try": tryHelper, "noipv6": noIPv6Helper})
}

// holdHelper opens the specs, prints the bound addresses, a line each, and holds it until its standard input ends. Then
// it goes without closing anything.
func holdHelper(args []string) int {
	for _, text := range args {
		s, err := spec.Parse(text)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		sock, err := socket.Open(s, socket.OpenConfig{})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(sock.Address())
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// tryHelper opens the specs one after the other, and prints "ok" or the error.
func tryHelper(args []string) int {
	for _, text := range args {
		s, err := spec.Parse(text)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		sock, err := socket.Open(s, socket.OpenConfig{})
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println("ok")
		_ = sock.Close()
	}
	return 0
}

// hold starts a process that holds the specs. It returns the process, the bound addresses, and a function that ends the
// process as a crash would.
func hold(t *testing.T, specs ...string) (cmd *exec.Cmd, addresses []string, end func()) {
	t.Helper()
	cmd = fdtest.Helper(t, "hold", specs...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for range specs {
		if !lines.Scan() {
			t.Fatalf("helper ended early: %v", addresses)
		}
		addresses = append(addresses, lines.Text())
	}
	return cmd, addresses, func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("helper: %v, it said %q", err, addresses)
		}
	}
}

// tryAs opens the specs in a process of that uid and gid, and returns a line for each: "ok" or its error.
func tryAs(t *testing.T, id uint32, specs ...string) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to start a process of another user")
	}
	cmd := fdtest.Helper(t, "try", specs...)
	cmd.Path = "/proc/self/exe" // the test binary's directory is closed to other users
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helper: %v, it said %q", err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// put makes a descriptor that another program has opened the socket of a donation.
func put(d socket.Donation, fd *scmrights.FD) (*socket.Socket, error) {
	s, err := d.Spec(fd)
	if err != nil {
		return nil, errors.Join(err, fd.Close())
	}
	return socket.Adopt(s, fd, socket.Foreign)
}

// helperCommand is the kernel's name of a process of this test binary.
func helperCommand() string {
	name := filepath.Base(os.Args[0])
	return name[:min(len(name), 15)]
}

func parse(t testing.TB, text string) spec.Spec {
	t.Helper()
	s, err := spec.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open opens the spec, and closes it when the test ends.
func open(t testing.TB, text string) *socket.Socket {
	t.Helper()
	sock, err := socket.Open(parse(t, text), socket.OpenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sock.Close(); err != nil {
			t.Error(err)
		}
	})
	return sock
}

// refused returns the error with which the spec must fail to open.
func refused(t *testing.T, text string) *socket.BindError {
	t.Helper()
	sock, err := socket.Open(parse(t, text), socket.OpenConfig{})
	if err == nil {
		t.Errorf("%s was opened", text)
		_ = sock.Close()
		t.FailNow()
	}
	be, ok := errors.AsType[*socket.BindError](err)
	if !ok {
		t.Fatalf("got a %T (%v), want a *BindError", err, err)
	}
	if strings.Contains(be.Error(), "\n") {
		t.Errorf("the error has more than one line: %q", be)
	}
	return be
}

// listener returns a duplicate of sock as a net.Listener, which the test closes.
func listener(t *testing.T, sock *socket.Socket) net.Listener {
	t.Helper()
	f := file(t, sock)
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	if ul, ok := ln.(*net.UnixListener); ok {
		ul.SetUnlinkOnClose(false)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// packetConn returns a duplicate of sock as a net.PacketConn, which the test closes.
func packetConn(t *testing.T, sock *socket.Socket) net.PacketConn {
	t.Helper()
	f := file(t, sock)
	defer f.Close()
	pc, err := net.FilePacketConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	return pc
}

func file(t *testing.T, sock *socket.Socket) *os.File {
	t.Helper()
	dup, err := sock.FD().Dup()
	if err != nil {
		t.Fatal(err)
	}
	f, err := dup.File(sock.Address())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// dial connects to sock, which the test's end undoes.
func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// control calls use with the socket's number.
func control(t *testing.T, sock *socket.Socket, use func(fd int)) {
	t.Helper()
	if err := sock.FD().Control(func(fd uintptr) { use(int(fd)) }); err != nil {
		t.Fatal(err)
	}
}

// sockopt returns an option of the socket.
func sockopt(t *testing.T, sock *socket.Socket, level, option int) (value int) {
	t.Helper()
	control(t, sock, func(fd int) {
		var err error
		if value, err = unix.GetsockoptInt(fd, level, option); err != nil {
			t.Fatalf("getsockopt %d %d: %v", level, option, err)
		}
	})
	return value
}

// portOf returns the port of a bound address with its colon.
func portOf(address string) string { return address[strings.LastIndexByte(address, ':'):] }
