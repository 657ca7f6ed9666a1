package keeper

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// StoreName is the name of the broker's end of the pair among the descriptors that it gets.
const StoreName = "@store"

// child is a broker that runs.
type child struct {
	pid        int
	end        *os.File                // ours of the pair
	messages   chan message            // closed when the broker's end is closed
	next       chan struct{}           // gets one for each message that was handled; closed when no other is
	ended      chan syscall.WaitStatus // gets one
	ready      bool                    // since it was started, or has restarted in place
	restarting bool                    // it said RELOADING=1, and neither READY=1 nor STOPPING=1 since
}

// code returns the exit status that says how a broker has ended.
func code(how syscall.WaitStatus) int {
	if how.Signaled() {
		return 128 + int(how.Signal())
	}
	return how.ExitStatus()
}

// describe says how a broker has ended.
func describe(how syscall.WaitStatus) string {
	if how.Signaled() {
		return fmt.Sprintf("killed by signal %d", int(how.Signal()))
	}
	return "exit status " + strconv.Itoa(how.ExitStatus())
}

// start starts a broker, which gets all of h.
func start(c Config, h held) (*child, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := scmrights.NewFD(pair[1])
	defer theirs.Close()
	ours := os.NewFile(uintptr(pair[0]), "broker")
	var st unix.Stat_t
	if err := unix.Fstat(pair[1], &st); err != nil {
		_ = ours.Close()
		return nil, os.NewSyscallError("fstat", err)
	}
	files, names := []uintptr{0, 1, 2}, []string{}
	for _, is := range append(slices.Clip(h), Held{StoreName, theirs}) {
		_ = is.FD.Control(func(fd uintptr) { files = append(files, fd) }) // no other goroutine closes it
		names = append(names, is.Name)
	}
	env := append(strip(c.Env), "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"),
		c.StoreEnv+"="+fmt.Sprintf("%d:%d", len(files)-1, st.Ino))
	pid, err := syscall.ForkExec(c.Program, c.Args, &syscall.ProcAttr{Env: env, Files: files})
	runtime.KeepAlive(h)
	if err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("start %s: %w", c.Program, err)
	}
	return watch(pid, ours)
}

// strip returns env without the variables that are not for the broker.
func strip(env []string) []string {
	others := []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES", "WATCHDOG_PID"}
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return slices.Contains(others, key)
	})
}

// watch reads the messages of a broker that runs, and waits for its exit. It takes our end
// of the pair, which close closes.
func watch(pid int, end *os.File) (*child, error) {
	conn, err := scmrights.NewConn(end)
	if err != nil {
		_ = end.Close()
		return nil, err
	}
	c := &child{
		pid: pid, end: end, messages: make(chan message), next: make(chan struct{}, 1), ended: make(chan syscall.WaitStatus, 1),
	}
	go c.receive(conn)
	go func() {
		var how syscall.WaitStatus
		for err := error(syscall.EINTR); err == syscall.EINTR; {
			_, err = syscall.Wait4(pid, &how, 0, nil) // no other error: it is a child, and no other goroutine waits for it
		}
		c.ended <- how
	}()
	return c, nil
}

// receive sends the broker's messages to c.messages, each after the one before was handled:
// if another program replaces the keeper's, it has to read those that were not.
func (c *child) receive(conn *scmrights.Conn) {
	defer close(c.messages)
	b := make([]byte, 8192)
	for {
		n, fds, err := conn.Recv(b, 1)
		lost := errors.Is(err, scmrights.ErrTooMany)
		if err != nil && !lost {
			return
		}
		c.messages <- message{string(b[:n]), fds, lost}
		if _, open := <-c.next; !open {
			return
		}
	}
}

// close ends the connection with the broker.
func (c *child) close() {
	close(c.next)
	_ = c.end.Close()
	if c.messages != nil {
		for m := range c.messages {
			scmrights.CloseAll(m.fds)
		}
	}
}

func (c *child) signal(s syscall.Signal) {
	if c != nil {
		_ = syscall.Kill(c.pid, s) // the pid is its own until its exit was handled
	}
}
