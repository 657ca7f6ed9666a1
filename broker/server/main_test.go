package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{
		"worker": workerHelper, "broker": brokerHelper, "rogue": rogueHelper, "serve": serveHelper,
	})
}

// patience is so long that only a bug makes a test wait for it.
var patience = fdtest.Long(20 * time.Second)

// logs collects the log of a broker.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines returns the events that contain all of words.
func (l *logs) lines(words ...string) (events []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if containsAll(line, words) {
			events = append(events, line)
		}
	}
	return events
}

func containsAll(s string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

// broker is a server that serves.
type broker struct {
	*server.Server
	path string
	logs *logs
	stop func() error // ends Serve and returns its error; may be called again
}

// start starts a broker that has specs bound; the test's end stops it.
func start(t testing.TB, cfg server.Config, specs ...string) *broker {
	t.Helper()
	return startOn(t, cfg, func(*scmrights.FD) {}, specs...)
}

// startOn is start with something done to the control socket first.
func startOn(t testing.TB, cfg server.Config, prepare func(*scmrights.FD), specs ...string) *broker {
	t.Helper()
	b := &broker{logs: new(logs)}
	cfg.Logger = zerolog.New(b.logs).Level(cfg.Logger.GetLevel()) // debug, unless a test says otherwise
	cfg.Version = "test"
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.Server = s
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	b.bind(t, specs...)
	dir := fdtest.SocketDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.path = filepath.Join(dir, "c")
	control, err := server.ListenControl(server.ControlConfig{Path: b.path, Mode: 0o666})
	if err != nil {
		t.Fatal(err)
	}
	prepare(control.Listener)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, control.Listener) }()
	b.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-served, control.Close())
	})
	t.Cleanup(func() {
		if err := b.stop(); !errors.Is(err, server.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return b
}

func (b *broker) bind(t testing.TB, specs ...string) {
	t.Helper()
	var parsed []spec.Spec
	for _, text := range specs {
		parsed = append(parsed, parse(t, text))
	}
	if err := b.Bind(parsed...); err != nil {
		t.Fatal(err)
	}
}

func parse(t testing.TB, text string) spec.Spec {
	t.Helper()
	spec, err := spec.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// listener returns the listener of that name as a list shows it.
func (b *broker) listener(t testing.TB, name string) protocol.Listener {
	t.Helper()
	for _, l := range b.Listeners() {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("no listener %s", name)
	return protocol.Listener{}
}

// held waits until name has so many holders, and so many requests wait for it.
func (b *broker) held(t testing.TB, name string, holders, waiting int) {
	t.Helper()
	fdtest.Eventually(t, fmt.Sprintf("%s has %d holders, %d wait", name, holders, waiting), func() bool {
		l := b.listener(t, name)
		return l.Holders == holders && l.Waiting == waiting
	})
}

// client speaks the protocol by itself.
type client struct {
	t    testing.TB
	uc   *net.UnixConn
	conn *protocol.Conn
}

func (b *broker) client(t testing.TB) *client {
	t.Helper()
	return dialClient(t, b.path)
}

func dialClient(t testing.TB, path string) *client {
	t.Helper()
	uc, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	return clientOn(t, uc)
}

func (c *client) close() {
	_ = c.uc.Close()
	c.conn.Discard()
}

// send sends a call, and each of the others, in one write.
func (c *client) send(calls ...call) {
	c.t.Helper()
	_ = c.uc.SetWriteDeadline(time.Now().Add(patience))
	if err := c.conn.Send(encode(c.t, calls...)); err != nil {
		c.t.Fatal(err)
	}
}

type call struct {
	protocol.Call
	parameters any
}

func encode(t testing.TB, calls ...call) (b []byte) {
	t.Helper()
	for _, k := range calls {
		var err error
		if b, err = protocol.AppendCall(b, k.Call, k.parameters); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func get(names ...string) call {
	return call{protocol.Call{Method: protocol.MethodGet}, protocol.GetParameters{Names: names}}
}

func getMore(p protocol.GetParameters) call {
	return call{protocol.Call{Method: protocol.MethodGet, More: true}, p}
}

func getOnce(p protocol.GetParameters) call {
	return call{protocol.Call{Method: protocol.MethodGet}, p}
}

func method(name string, parameters any) call {
	return call{protocol.Call{Method: name}, parameters}
}

// next returns the next reply and its descriptors, which the test's end closes.
func (c *client) next() (protocol.Reply, []*scmrights.FD, error) {
	c.t.Helper()
	for {
		m, ok := c.conn.Next()
		if ok {
			c.t.Cleanup(func() { scmrights.CloseAll(m.FDs) })
			r, err := protocol.DecodeReply(bytes.Clone(m.Bytes))
			return r, m.FDs, err
		}
		_ = c.uc.SetReadDeadline(time.Now().Add(patience))
		if err := c.conn.Fill(); err != nil {
			return protocol.Reply{}, nil, err
		}
	}
}

// reply returns the next reply, which there must be, and its descriptors.
func (c *client) reply() (protocol.Reply, []*scmrights.FD) {
	c.t.Helper()
	r, fds, err := c.next()
	if err != nil {
		c.t.Fatalf("no reply: %v", err)
	}
	return r, fds
}

// refused returns the error reply that must come next.
func (c *client) refused() error {
	c.t.Helper()
	r, fds := c.reply()
	if r.Err == nil || len(fds) > 0 {
		c.t.Fatalf("got %s with %d descriptors, want an error", r.Parameters, len(fds))
	}
	return r.Err
}

// got returns the reply to a Get, which must be a success.
func (c *client) got() (protocol.GetReply, []*scmrights.FD) {
	c.t.Helper()
	r, fds := c.reply()
	if r.Err != nil {
		c.t.Fatal(r.Err)
	}
	var g protocol.GetReply
	if err := protocol.DecodeParameters(r.Parameters, &g); err != nil {
		c.t.Fatal(err)
	}
	return g, fds
}

// ended checks that the broker closes the connection.
func (c *client) ended() {
	c.t.Helper()
	r, _, err := c.next()
	if err == nil {
		c.t.Fatalf("got %s %v, want the end of the connection", r.Parameters, r.Err)
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		c.t.Fatalf("got %v, want the end of the connection", err)
	}
}

// call makes a call, decodes its reply into v, and returns its error.
func (c *client) call(name string, parameters, v any) error {
	c.t.Helper()
	c.send(method(name, parameters))
	r, _ := c.reply()
	if r.Err != nil || v == nil {
		return r.Err
	}
	return protocol.DecodeParameters(r.Parameters, v)
}

// alive checks that the broker answers on this connection.
func (c *client) alive() {
	c.t.Helper()
	if err := c.call(protocol.MethodGetInfo, nil, nil); err != nil {
		c.t.Error(err)
	}
}

func (c *client) list() (l protocol.ListReply) {
	c.t.Helper()
	if err := c.call(protocol.MethodList, nil, &l); err != nil {
		c.t.Fatal(err)
	}
	return l
}

// cookie tells which socket f is.
func cookie(t testing.TB, f *scmrights.FD) (n uint64) {
	t.Helper()
	err := f.Control(func(fd uintptr) {
		var err error
		if n, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func statusFlags(t testing.TB, f *scmrights.FD) (flags int) {
	t.Helper()
	_ = f.Control(func(fd uintptr) {
		var err error
		if flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil {
			t.Error(err)
		}
	})
	return flags
}

// setBlocking changes O_NONBLOCK as a worker might.
func setBlocking(t testing.TB, f *scmrights.FD, blocking bool) {
	t.Helper()
	_ = f.Control(func(fd uintptr) {
		if err := unix.SetNonblock(int(fd), !blocking); err != nil {
			t.Error(err)
		}
	})
}

// worker is a process that makes the calls which it reads from its standard input.
type worker struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *os.File
}

// spawn starts a worker, as another user and groups if ids are given.
func (b *broker) spawn(t testing.TB, ids ...uint32) *worker {
	t.Helper()
	cmd := fdtest.Helper(t, "worker", b.path)
	if len(ids) > 0 {
		asUser(t, cmd, ids...)
	}
	return startWorker(t, cmd)
}

func startWorker(t testing.TB, cmd *exec.Cmd) *worker {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &worker{t, cmd, stdin, out.(*os.File)}
}

// asUser makes cmd run as the user ids[0] of the group ids[1], and of the others.
func asUser(t testing.TB, cmd *exec.Cmd, ids ...uint32) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to start a process of another user")
	}
	cmd.Path = "/proc/self/exe" // the test binary's directory is closed to other users
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}}
}

// give makes a directory another user's.
func give(t testing.TB, path string, uid uint32) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to give directories away")
	}
	if err := errors.Join(os.Chmod(path, 0o755), os.Chown(path, int(uid), int(uid))); err != nil {
		t.Fatal(err)
	}
}

func (w *worker) pid() int { return w.cmd.Process.Pid }

// tell sends a line.
func (w *worker) tell(line string) {
	w.t.Helper()
	if _, err := io.WriteString(w.stdin, line+"\n"); err != nil {
		w.t.Fatal(err)
	}
}

// ask tells the worker to make a call.
func (w *worker) ask(k call) {
	w.t.Helper()
	w.tell(strings.TrimSuffix(string(encode(w.t, k)), "\x00"))
}

// answer returns the reply that the worker got, and how many descriptors with it.
func (w *worker) answer() (protocol.Reply, int) {
	w.t.Helper()
	_ = w.out.SetReadDeadline(time.Now().Add(patience))
	line, err := readLine(w.out)
	if err != nil {
		w.t.Fatalf("the worker says %q: %v", line, err)
	}
	count, text, _ := strings.Cut(line, " ")
	n, err := strconv.Atoi(count)
	if err != nil {
		w.t.Fatalf("the worker says %q", line)
	}
	r, err := protocol.DecodeReply([]byte(text))
	if err != nil {
		w.t.Fatal(err)
	}
	return r, n
}

// call makes the worker make a call, and returns the error of its reply.
func (w *worker) call(k call) error {
	w.t.Helper()
	w.ask(k)
	r, _ := w.answer()
	return r.Err
}

// kill kills the worker and waits for it.
func (w *worker) kill() {
	w.t.Helper()
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}

// readLine reads a line without reading further.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := r.Read(b); err != nil {
			return string(line), err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
}

// workerHelper obeys its standard input, line by line: "exec" executes itself, "reconnect" drops its
// connection, "user" connects as another one, "next" reads one more reply. It sends everything else to the
// broker, and prints the reply after the number of its descriptors.
func workerHelper(args []string) int {
	var conn *protocol.Conn
	var uc *net.UnixConn
	for {
		line, err := readLine(os.Stdin)
		switch {
		case err != nil:
			return 0
		case line == "exec":
			env := append(os.Environ(), "FDTEST_HELPER=worker")
			fmt.Println(syscall.Exec("/proc/self/exe", append([]string{"executed"}, args...), env))
			return 1
		case line == "reconnect":
			_ = uc.Close()
			conn = nil
			continue
		case strings.HasPrefix(line, "user "):
			uid, _ := strconv.Atoi(line[len("user "):])
			if err := syscall.Setresuid(-1, uid, -1); err != nil {
				fmt.Println(err)
				return 1
			}
		}
		if conn == nil {
			if uc, err = net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: args[0]}); err == nil {
				var sc *scmrights.Conn
				sc, err = scmrights.NewConn(uc)
				conn = protocol.NewConn(sc, protocol.MaxReply, scmrights.MaxFDs)
			}
		}
		if err == nil && os.Geteuid() != os.Getuid() {
			if err = syscall.Setresuid(-1, os.Getuid(), -1); err == nil {
				continue
			}
		}
		if err == nil && line != "next" {
			_ = conn.Send(append([]byte(line), 0)) // a refused connection has a reply, too
		}
		var m protocol.Message
		for ok := false; err == nil; {
			if m, ok = conn.Next(); ok {
				break
			}
			err = conn.Fill()
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Printf("%d %s\n", len(m.FDs), m.Bytes)
	}
}

// brokerHelper serves at args[0], with args[1] as a JSON list of specs, and with at most args[2] more open
// files unless that is 0. It prints "ready", and goes on until its standard input ends.
func brokerHelper(args []string) int {
	fail := func(err error) int {
		fmt.Println(err)
		return 1
	}
	var texts []string
	if err := json.Unmarshal([]byte(args[1]), &texts); err != nil {
		return fail(err)
	}
	s, err := server.New(server.Config{Logger: zerolog.New(os.Stdout)})
	if err != nil {
		return fail(err)
	}
	for _, text := range texts {
		spec, err := spec.Parse(text)
		if err == nil {
			err = s.Bind(spec)
		}
		if err != nil {
			return fail(err)
		}
	}
	control, err := server.ListenControl(server.ControlConfig{Path: args[0], Mode: 0o666})
	if err != nil {
		return fail(err)
	}
	if more, err := strconv.Atoi(args[2]); err == nil && more > 0 {
		free, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return fail(err)
		}
		_ = unix.Close(free)
		n := uint64(free + more)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return fail(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	fmt.Println("ready")
	if err := s.Serve(ctx, control.Listener); !errors.Is(err, server.ErrClosed) {
		return fail(err)
	}
	if err := errors.Join(control.Close(), s.Close()); err != nil {
		return fail(err)
	}
	return 0
}

// startHelper starts a broker helper and waits until it is ready. The returned function stops it and checks
// that it ended well.
func startHelper(t testing.TB, cmd *exec.Cmd) (stop func()) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		line, err := readLine(out)
		if err != nil {
			t.Fatalf("the broker says %q: %v", line, err)
		}
		if line == "ready" {
			break
		}
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, out)
	}()
	return func() {
		t.Helper()
		_ = stdin.Close()
		<-drained
		if err := cmd.Wait(); err != nil {
			t.Errorf("broker: %v", err)
		}
	}
}
