package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// answerTime is how long a supervisor may take for its first answer to a request, which waits for nothing.
const answerTime = 5 * time.Second

// RollError says that a supervisor has not replaced its workers, and why.
type RollError struct{ Reason string }

func (e *RollError) Error() string { return e.Reason }

// Roll asks the process pid, in which a supervisor runs that takes requests, to replace all of its workers. It waits
// until that is over, and returns how many were replaced. If another roll is under way, one more follows, and Roll waits
// for that. Ctx ends the wait, and not the roll.
//
// If the supervisor answers that it has not replaced all workers, the error is a *[RollError].
func Roll(ctx context.Context, pid int) (replaced int, err error) {
	a, err := newAsker(pid)
	if err != nil {
		return 0, err
	}
	defer a.close()
	if err := a.send(requestRoll); err != nil {
		return 0, err
	}
	first, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	text, err := a.receive(first)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return 0, fmt.Errorf("no answer for %v from process %d: it is suspended or hung, or its log says that it cannot be asked", answerTime, pid)
	}
	for err == nil {
		kind, rest, _ := strings.Cut(text, " ")
		switch kind {
		case answerReplaced:
			n, err := strconv.Atoi(rest)
			return n, err
		case answerFailed:
			return 0, &RollError{rest}
		}
		text, err = a.receive(ctx)
	}
	return 0, err
}

// asker asks a supervisor in another process.
type asker struct {
	pid   int
	pidfd *scmrights.FD // nil: the kernel, or a filter, refuses it
	fd    *scmrights.FD // a datagram socket that is connected with the supervisor's
}

// newAsker returns an asker, which the caller must close.
func newAsker(pid int) (_ *asker, err error) {
	a := &asker{pid: pid}
	if a.gone() {
		return nil, fmt.Errorf("there is no process %d", pid)
	}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if n, err := unix.PidfdOpen(pid, 0); err == nil {
		a.pidfd = scmrights.NewFD(n)
	}
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	a.fd = scmrights.NewFD(n)
	if err := unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(n, &unix.SockaddrUnix{}); err != nil { // unix(7), autobind
		return nil, os.NewSyscallError("bind", err)
	}
	switch err := unix.Connect(n, &unix.SockaddrUnix{Name: RequestAddress(pid)}); err {
	case nil:
		return a, nil
	case unix.ECONNREFUSED:
		return nil, fmt.Errorf("process %d takes no requests: it is not an 'fdclient run', or an earlier version, or in another network or pid namespace; SIGHUP makes such a run roll as well", pid)
	default:
		return nil, os.NewSyscallError("connect", err)
	}
}

func (a *asker) close() {
	for _, fd := range []*scmrights.FD{a.pidfd, a.fd} {
		if fd != nil {
			_ = fd.Close()
		}
	}
}

// gone reports whether there is no process with that pid.
func (a *asker) gone() bool { return unix.Kill(a.pid, 0) == unix.ESRCH }

// send sends text. It waits if the supervisor has too much to read.
func (a *asker) send(text string) error {
	for until := time.Now().Add(answerTime); ; {
		var err error
		_ = a.fd.Control(func(fd uintptr) { _, err = unix.Write(int(fd), []byte(text)) })
		switch {
		case err == nil:
			return nil
		case err != unix.EAGAIN:
			return fmt.Errorf("ask process %d: %w", a.pid, os.NewSyscallError("write", err))
		case time.Now().After(until):
			return fmt.Errorf("process %d does not read requests: it is suspended or hung", a.pid)
		}
		time.Sleep(time.Millisecond) // another client has filled the queue, which has ten places
	}
}

// receive returns the next answer. It fails once the process has exited, or ctx is done.
func (a *asker) receive(ctx context.Context) (text string, err error) {
	for {
		if text, ok := a.take(); ok {
			return text, nil
		}
		exited, err := a.wait(ctx)
		if err != nil {
			return "", err
		}
		if exited {
			if text, ok := a.take(); ok {
				return text, nil
			}
			return "", fmt.Errorf("process %d has exited meanwhile", a.pid)
		}
	}
}

// take returns the first datagram from the process itself: others may have its address.
func (a *asker) take() (text string, ok bool) {
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, oobn := 0, 0
		var err error
		_ = a.fd.Control(func(fd uintptr) { n, oobn, _, _, err = unix.Recvmsg(int(fd), buf, oob, 0) })
		switch cred, known := credentials(oob[:oobn]); {
		case err == unix.EINTR:
		case err != nil:
			return "", false
		case known && int(cred.Pid) == a.pid:
			return string(buf[:n]), true
		}
	}
}

// tick is how often a wait looks at its context and, without a pidfd, at the process.
const tick = 100 * time.Millisecond

// wait waits until there is something to read, or the process has exited.
func (a *asker) wait(ctx context.Context) (exited bool, err error) {
	polled := make([]unix.PollFd, 0, 2)
	for _, fd := range []*scmrights.FD{a.fd, a.pidfd} {
		if fd != nil {
			_ = fd.Control(func(n uintptr) { polled = append(polled, unix.PollFd{Fd: int32(n), Events: unix.POLLIN}) })
		}
	}
	for { // no other goroutine closes the descriptors
		n, _ := unix.Poll(polled, int(tick.Milliseconds()))
		switch {
		case n > 0 && a.pidfd != nil:
			return polled[1].Revents != 0, nil
		case n > 0 || a.pidfd == nil && a.gone():
			return n <= 0, nil
		case ctx.Err() != nil:
			return false, ctx.Err()
		}
	}
}
