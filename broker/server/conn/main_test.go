package conn

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { fdtest.Main(m, nil) }

var (
	patience = fdtest.Long(20 * time.Second)       // only a bug makes a test wait that long
	timeout  = fdtest.Long(500 * time.Millisecond) // a CallTimeout that is waited for, and that a client keeps on a busy machine too
)

// rig is a loop that serves. It is the handler of its own calls:
//
//	echo TEXT   replies TEXT
//	big N       replies N bytes
//	park        goes on until release, or the end of the connection
//	patient N   the same, and sends N bytes first; its client may take any time to read them
//	poll        replies "polling", goes on until the client sends something, and replies "polled" then
//	window      lets the next call carry a descriptor, and replies "open"
//	take        replies how many descriptors came along
type rig struct {
	t      testing.TB
	loop   *Loop
	path   string
	served chan struct{} // closed once Serve has returned
	left   int           // connections that Serve has left behind
	err    error         // of Serve

	mu       sync.Mutex
	refused  []error
	closed   int // connections
	ended    int // parked calls
	stopping int // of these, because the loop stops
	steps    int // of parked calls
	parked   []*Conn
}

// serve starts a loop. Guarded says that the kernel refuses descriptors that were not asked for.
func serve(t testing.TB, cfg Config, guarded bool) *rig {
	t.Helper()
	r := newRig(t, cfg)
	ln := r.listen()
	_ = ln.Control(func(fd uintptr) {
		value := 1 // as on a kernel that does not know the option
		if guarded {
			value = 0
		}
		err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, value)
		if err != nil && guarded {
			t.Skipf("the kernel has no SO_PASSRIGHTS: %v", err)
		}
	})
	go func() {
		r.left, r.err = r.loop.Serve(ln)
		close(r.served)
	}()
	t.Cleanup(func() { r.stop() })
	return r
}

// newRig returns a loop that does not serve yet.
func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(fdtest.SocketDir(t), "c"), served: make(chan struct{})}
	cfg.Handler = r
	cfg.MaxClients, cfg.MaxClientsPerUID = 1000, 1000
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = 1 << 16
	}
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = patience
	}
	var err error
	if r.loop, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.loop.Close() })
	return r
}

// listen returns a control socket, which the test's end closes.
func (r *rig) listen() *scmrights.FD {
	r.t.Helper()
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	ln := scmrights.NewFD(n)
	r.t.Cleanup(func() { _ = ln.Close() })
	if err := errors.Join(unix.Bind(n, &unix.SockaddrUnix{Name: r.path}), unix.Listen(n, 300)); err != nil {
		r.t.Fatal(err)
	}
	return ln
}

// stop stops the loop, if it serves, and waits until it has stopped.
func (r *rig) stop() {
	r.t.Helper()
	r.loop.Stop()
	select {
	case <-r.served:
		if r.err != nil {
			r.t.Errorf("Serve: %v", r.err)
		}
	case <-time.After(patience):
		r.t.Fatal("Serve does not return")
	}
}

// on calls f on the loop's goroutine.
func (r *rig) on(f func()) {
	r.t.Helper()
	done := make(chan struct{})
	r.loop.Post(func() { f(); close(done) })
	select {
	case <-done:
	case <-time.After(patience):
		r.t.Fatal("the loop does not call what was posted")
	}
}

// empty waits until the loop has no connection, and nothing is left of any.
func (r *rig) empty() {
	r.t.Helper()
	fdtest.Eventually(r.t, "no connection is left", func() (is bool) {
		r.on(func() {
			l := r.loop
			is = len(l.conns) == 0 && l.clients == 0 && len(l.perUID) == 0 && len(l.deadlines) == 0
		})
		return is
	})
}

func (r *rig) Caller(_ scmrights.Nonblocking, p peer.Credentials) registry.Caller {
	return registry.Caller{Peer: p, Privileged: true} // so that it may send sockets that linger
}

func (r *rig) Call(c *Conn, message []byte, fds []*scmrights.FD) error {
	c.Discard(fds)
	name, text, _ := strings.Cut(string(message), " ")
	switch name {
	case "echo":
		return c.Send([]byte(text + "\x00"))
	case "big":
		return c.Send(filled(text))
	case "park", "patient", "poll":
		r.park(c, name, text)
		return nil
	case "window":
		c.OpenWindow()
		return c.Send([]byte("open\x00"))
	case "take":
		return c.Send([]byte(strconv.Itoa(len(fds)) + "\x00"))
	}
	return &protocol.MalformedError{Reason: name}
}

func (r *rig) park(c *Conn, name, text string) {
	r.count(func() { r.parked = append(r.parked, c) })
	if name == "poll" {
		_ = c.Send([]byte("polling\x00"))
	}
	first := name == "patient"
	c.Park(&Parked{
		Patient: name == "patient", EndsOnInput: name == "poll",
		Step: func() error {
			r.count(func() { r.steps++ })
			if first {
				first = false
				return c.Send(filled(text))
			}
			return nil
		},
		End: func(stopping bool) {
			r.count(func() {
				if r.ended++; stopping {
					r.stopping++
				}
			})
			if name == "poll" {
				_ = c.Send([]byte("polled\x00"))
			}
		},
	})
}

// filled returns a reply of so many bytes.
func filled(n string) []byte {
	size, _ := strconv.Atoi(n)
	b := bytes.Repeat([]byte("x"), size)
	b[size-1] = 0
	return b
}

func (r *rig) Refused(_ *Conn, err error) { r.count(func() { r.refused = append(r.refused, err) }) }

func (r *rig) Closed(*Conn, bool) { r.count(func() { r.closed++ }) }

func (r *rig) Paused(err error, _ time.Duration) { r.t.Errorf("paused: %v", err) }

func (r *rig) count(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// counted waits until the count that of returns is n.
func (r *rig) counted(what string, n int, of func() int) {
	r.t.Helper()
	fdtest.Eventually(r.t, strconv.Itoa(n)+" "+what, func() (is bool) {
		r.count(func() { is = of() == n })
		return is
	})
}

// release ends all parked calls.
func (r *rig) release() {
	r.t.Helper()
	var all []*Conn
	r.count(func() { all, r.parked = r.parked, nil })
	for _, c := range all {
		r.on(func() {
			if !c.closed && c.parked != nil {
				c.Done()
				c.Wake()
			}
		})
	}
}

// client is the other end of a connection.
type client struct {
	*net.UnixConn
	t  testing.TB
	in *bufio.Reader
}

func (r *rig) dial() *client {
	r.t.Helper()
	uc, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: r.path})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = uc.Close() })
	_ = uc.SetDeadline(time.Now().Add(patience))
	return &client{uc, r.t, bufio.NewReader(uc)}
}

// say sends calls in one write.
func (c *client) say(calls ...string) {
	c.t.Helper()
	if _, err := io.WriteString(c, strings.Join(calls, "\x00")+"\x00"); err != nil {
		c.t.Fatal(err)
	}
}

// send sends bytes with descriptors.
func (c *client) send(text string, fds ...*scmrights.FD) error {
	c.t.Helper()
	var numbers []int
	for _, f := range fds {
		_ = f.Control(func(n uintptr) { numbers = append(numbers, int(n)) })
	}
	_, _, err := c.WriteMsgUnix([]byte(text), unix.UnixRights(numbers...), nil)
	return err
}

// reply returns the next reply.
func (c *client) reply() string {
	c.t.Helper()
	b, err := c.in.ReadBytes(0)
	if err != nil {
		c.t.Fatalf("got %q, %v", b, err)
	}
	return string(b[:len(b)-1])
}

// answers checks the next replies.
func (c *client) answers(want ...string) {
	c.t.Helper()
	for _, text := range want {
		if got := c.reply(); got != text {
			c.t.Fatalf("got %q, want %q", got, text)
		}
	}
}

// alive checks that the connection is served.
func (c *client) alive() {
	c.t.Helper()
	c.say("echo alive")
	c.answers("alive")
}

// over checks that the loop ends the connection.
func (c *client) over() {
	c.t.Helper()
	b, err := c.in.ReadBytes(0)
	if err == nil || !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		c.t.Fatalf("got %q, %v, want the end of the connection", b, err)
	}
}

// isRefused returns the error reply that must come next.
func (c *client) isRefused() error {
	c.t.Helper()
	r, err := protocol.DecodeReply([]byte(c.reply()))
	if err != nil || r.Err == nil {
		c.t.Fatalf("got %+v, %v, want an error reply", r, err)
	}
	return r.Err
}

// pipe returns a pipe. The test's end closes both ends.
func pipe(t testing.TB) (reader, writer *scmrights.FD) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	reader, writer = scmrights.NewFD(p[0]), scmrights.NewFD(p[1])
	t.Cleanup(func() { scmrights.CloseAll([]*scmrights.FD{reader, writer}) })
	return reader, writer
}

// gone waits until no process has the writing end of a pipe.
func gone(t testing.TB, reader *scmrights.FD) {
	t.Helper()
	fdtest.Eventually(t, "the descriptor is closed", func() (is bool) {
		_ = reader.Control(func(fd uintptr) {
			n, err := unix.Read(int(fd), make([]byte, 1))
			is = n == 0 && err == nil
		})
		return is
	})
}

// lingering returns a connection whose last close blocks until the test ends, because data that its
// peer does not read waits in it.
func lingering(t testing.TB) *scmrights.FD {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() }) // which resets it
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rc, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd *scmrights.FD
	_ = rc.Control(func(n uintptr) {
		if err = unix.SetsockoptLinger(int(n), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3000}); err != nil {
			return
		}
		for err == nil {
			_, err = unix.SendmsgN(int(n), make([]byte, 1<<16), nil, nil, unix.MSG_DONTWAIT)
		}
		var d int
		if d, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			fd = scmrights.NewFD(d)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fd.Close() })
	return fd
}
