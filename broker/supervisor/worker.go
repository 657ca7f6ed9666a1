//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// step is how far a worker has come.
type step int

const (
	stepStarting step = iota // it has asked for its socket
	stepWaiting              // there is no broker, or no such name
	stepStandby              // all places are taken
	stepRunning              // it runs the command
	stepReady
)

// worker is a process from its start until it has been reaped. Its descriptors are
// the supervisor's.
type worker struct {
	id      int32
	slot    *slot // nil: it has been asked to leave
	pid     int
	pidfd   int
	ahead   bool // it was started ahead, and waits for its start
	gate    int  // what it waits at; else -1
	reports reports
	notify  *readiness // nil: none

	step    step
	roll    *roll     // what has started it to replace another one; nil: nothing
	rolling bool      // it has not done so yet, as it is not ready
	stood   bool      // it was on standby
	ran     time.Time // when it became the command; zero before
	due     time.Time // when its step, or its stop, must be over; zero: never
	told    bool      // it has got, or will have got, the stop signal
	failed  *StartError
}

// usable reports whether w serves, or is as far as it can come without a place.
func (w *worker) usable() bool {
	return w != nil && (w.step == stepReady || w.step == stepStandby)
}

// gone reports whether w has ended, be it that nobody has dealt with that yet.
func (w *worker) gone() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.pidfd), Events: unix.POLLIN}}, 0)
	return n > 0 && err == nil
}

// The descriptors that a worker finds besides the standard streams, if it has both.
const (
	statusFD = 3
	startFD  = 4
)

// startOptions says how to start a worker.
type startOptions struct {
	notify bool          // it says when it is ready
	nudge  time.Duration // see Config
	ahead  bool          // it waits for its start
}

// start starts a worker. The error is a *StartError where the command itself is at
// fault.
func (c *Command) start(id int32, o startOptions) (_ *worker, err error) {
	w := &worker{id: id, pidfd: -1, ahead: o.ahead, gate: -1, reports: reports{fd: -1}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	address := ""
	if o.notify {
		if w.notify, err = newReadiness(o.nudge); err != nil {
			return nil, err
		}
		address = w.notify.address
	}
	files := []uintptr{0, 1, 2}
	if c.Reports {
		end, err := pipe(&w.reports.fd, unix.O_NONBLOCK, true)
		if err != nil {
			return nil, err
		}
		defer unix.Close(end)
		files = append(files, uintptr(end))
	}
	if o.ahead {
		end, err := pipe(&w.gate, 0, false)
		if err != nil {
			return nil, err
		}
		defer unix.Close(end)
		files = append(files, uintptr(end))
	}
	w.pid, err = syscall.ForkExec(c.Path, c.Argv, &syscall.ProcAttr{
		Env:   environ(c.Env, len(files), address),
		Files: files,
		Sys:   &syscall.SysProcAttr{PidFD: &w.pidfd},
	})
	if err != nil {
		return nil, startError(c.Path, err)
	}
	if w.pidfd < 0 {
		_ = unix.Kill(w.pid, unix.SIGKILL)
		_, _ = unix.Wait4(w.pid, nil, 0, nil)
		return nil, errors.New("this kernel has no pidfds: Linux 5.4 is needed")
	}
	return w, nil
}

// pipe makes a pipe. Its reading end, or else its writing end, becomes ours, and the other
// one is returned; the caller must close both.
func pipe(ours *int, flags int, read bool) (theirs int, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|flags); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	if read {
		*ours, theirs = ends[0], ends[1]
	} else {
		theirs, *ours = ends[0], ends[1]
	}
	return theirs, nil
}

// startError returns what it means that path could not be started.
func startError(path string, err error) error {
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("start a worker: %w", err) // passes
	case errors.Is(err, unix.ENOENT):
		return &StartError{Status: 127, Reason: fmt.Sprintf("cannot run %s: %v", path, err)}
	}
	return &StartError{Status: 126, Reason: fmt.Sprintf("cannot run %s: %v", path, err)}
}

// watch makes p tell of w.
func (w *worker) watch(p *poller) error {
	err := p.add(w.pidfd, ready{w.id, fromProcess})
	if err == nil && w.reports.fd >= 0 {
		err = p.add(w.reports.fd, ready{w.id, fromStatus})
	}
	if err == nil && w.notify != nil {
		err = w.notify.watch(p, ready{w.id, fromNotify})
	}
	return err
}

// signal sends w a signal. It cannot reach another process, and one that has ended
// needs none.
func (w *worker) signal(sig unix.Signal) {
	_ = unix.PidfdSendSignal(w.pidfd, sig, nil, 0)
}

// reap returns how w has ended, and whether it has.
func (w *worker) reap() (how unix.WaitStatus, ended bool) {
	for {
		pid, err := unix.Wait4(w.pid, &how, unix.WNOHANG, nil)
		if err != unix.EINTR {
			return how, pid == w.pid
		}
	}
}

func (w *worker) close() {
	w.closeGate()
	w.reports.close()
	if w.notify != nil {
		w.notify.close()
	}
	if w.pidfd >= 0 {
		_ = unix.Close(w.pidfd)
	}
	w.pidfd = -1
}

// describe says how a process has ended.
func describe(how unix.WaitStatus) string {
	if how.Signaled() {
		return "killed by " + unix.SignalName(how.Signal())
	}
	return fmt.Sprintf("exit status %d", how.ExitStatus())
}
