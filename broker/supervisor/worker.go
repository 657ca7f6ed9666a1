package supervisor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/internal/closer"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// StartEnv names, in the environment of a [Command] that is started ahead, the number of a
// descriptor: a pipe. The command reads it before it asks for its sockets. A byte means
// that it may go on, the end of the pipe that it should exit.
const StartEnv = "FDCLIENT_START_FD"

// step is how far a worker has come.
type step int

const (
	stepStarting step = iota // it asks for its sockets
	stepWaiting              // there is no broker, or no such name
	stepStandby              // all places are taken
	stepRunning              // it runs the command
	stepReady
)

// worker is a process from its start until it was reaped.
type worker struct {
	id         int64
	slot       *slot // nil: it was asked to leave, or is the prestarted worker
	pid        int
	pidfd      *scmrights.FD
	reaped     bool          // it was waited for
	startPipe  *scmrights.FD // the end that we write to; nil: it need not wait
	reports    reports
	readiness  *mailbox // on which it says READY=1; nil: none
	prestarted bool     // it waits at startPipe

	step       step
	roll       int       // id of the roll that started it; 0: none
	replacing  bool      // it is to replace another worker once it is ready
	wasStandby bool      // it has been on standby
	ran        time.Time // when it became the command; zero: not yet
	due        time.Time // when its step, or its stop, must be over; zero: never
	asked      bool      // it has got, or will get, the stop signal
	failed     *StartError
}

// slot is a place for a worker.
type slot struct {
	current  *worker   // nil: none
	next     *worker   // is to replace current; nil: none
	late     *worker   // was not ready in time, and has to exit first; nil: none
	failures int       // in a row
	again    time.Time // when to start the next worker
}

// vacant reports whether a worker should be started in sl, now or later.
func (sl *slot) vacant() bool { return sl.current == nil && sl.next == nil && sl.late == nil }

// usable reports whether w serves, or is as far as it can come without a place.
func (w *worker) usable() bool {
	return w != nil && (w.step == stepReady || w.step == stepStandby)
}

// exited reports whether w has exited, even if the supervisor has not reaped it yet.
func (w *worker) exited() (exited bool) {
	if w.pidfd != nil {
		_ = w.pidfd.Control(func(fd uintptr) {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			exited = n > 0 && err == nil
		})
	}
	return exited
}

// startWorker starts a worker, which waits if it is prestarted. The error is a *StartError if
// the command itself is at fault.
func startWorker(config *Config, cl *closer.Closer, id int64, prestarted bool) (_ *worker, err error) {
	c, w := config.Command, &worker{id: id, prestarted: prestarted}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	env := append(make([]string, 0, len(c.Env)+3), c.Env...)
	if config.NotifyReady {
		if w.readiness, err = newMailbox("", cl, config.nudge); err != nil {
			return nil, err
		}
		env = append(env, "NOTIFY_SOCKET="+w.readiness.address)
	}
	files := []uintptr{0, 1, 2}
	if c.Reports {
		reader, writer, err := pipe(unix.O_NONBLOCK)
		if err != nil {
			return nil, err
		}
		defer unix.Close(writer)
		w.reports.fd = scmrights.NewFD(reader)
		env = append(env, StatusEnv+"="+strconv.Itoa(len(files)))
		files = append(files, uintptr(writer))
	}
	if prestarted {
		reader, writer, err := pipe(0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(reader)
		w.startPipe = scmrights.NewFD(writer)
		env = append(env, StartEnv+"="+strconv.Itoa(len(files)))
		files = append(files, uintptr(reader))
	}
	pidfd := -1
	w.pid, err = syscall.ForkExec(c.Path, c.Argv, &syscall.ProcAttr{Env: env, Files: files, Sys: &syscall.SysProcAttr{PidFD: &pidfd}})
	if err != nil {
		return nil, startError(c.Path, err)
	}
	if pidfd < 0 {
		_ = unix.Kill(w.pid, unix.SIGKILL)
		_, _ = unix.Wait4(w.pid, nil, 0, nil)
		return nil, errors.New("this kernel has no pidfds: Linux 5.4 is needed")
	}
	w.pidfd = scmrights.NewFD(pidfd)
	return w, nil
}

// pipe returns the ends of a pipe, which the caller must close.
func pipe(flags int) (reader, writer int, err error) {
	var ends [2]int
	err = unix.Pipe2(ends[:], unix.O_CLOEXEC|flags)
	return ends[0], ends[1], os.NewSyscallError("pipe2", err)
}

// startError returns the error of a failed start of path.
func startError(path string, err error) error {
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("start a worker: %w", err) // a later attempt may succeed
	case errors.Is(err, unix.ENOENT):
		return &StartError{Status: 127, Reason: fmt.Sprintf("cannot run %s: %v", path, err)}
	}
	return &StartError{Status: 126, Reason: fmt.Sprintf("cannot run %s: %v", path, err)}
}

// watch makes p report w. If that fails it kills w.
func (w *worker) watch(p *poller) error {
	err := p.Add(w.pidfd, unix.EPOLLIN, uint64(readyOf(w.id, fromProcess)))
	if err == nil && w.reports.fd != nil {
		err = p.Add(w.reports.fd, unix.EPOLLIN, uint64(readyOf(w.id, fromReports)))
	}
	if err == nil && w.readiness != nil {
		err = w.readiness.watch(p, readyOf(w.id, fromNotify))
	}
	if err != nil { // out of memory, or of watches
		w.signal(unix.SIGKILL)
		w.close()
		go func() { _, _ = unix.Wait4(w.pid, nil, 0, nil) }()
	}
	return err
}

// signal sends w a signal. A pidfd cannot mean another process; if w has exited, nothing happens. Where a seccomp profile
// forbids pidfd_send_signal, the pid has to do, which is w's until w was waited for.
func (w *worker) signal(sig unix.Signal) {
	if w.pidfd == nil {
		return
	}
	_ = w.pidfd.Control(func(fd uintptr) {
		if err := unix.PidfdSendSignal(int(fd), sig, nil, 0); err == unix.EPERM && !w.reaped {
			_ = unix.Kill(w.pid, sig)
		}
	})
}

// letStart makes a prestarted worker go on.
func (w *worker) letStart() {
	w.prestarted = false
	_ = w.startPipe.Control(func(fd uintptr) { _, _ = unix.Write(int(fd), []byte{1}) }) // fails if w has exited
	_ = w.startPipe.Close()
}

// reap returns how w has exited, and whether it has.
func (w *worker) reap() (how unix.WaitStatus, exited bool) {
	for {
		pid, err := unix.Wait4(w.pid, &how, unix.WNOHANG, nil)
		if err != unix.EINTR {
			w.reaped = w.reaped || pid == w.pid
			return how, pid == w.pid
		}
	}
}

func (w *worker) close() {
	w.reports.close()
	if w.readiness != nil {
		w.readiness.close()
	}
	for _, fd := range []*scmrights.FD{w.startPipe, w.pidfd} {
		if fd != nil {
			_ = fd.Close()
		}
	}
}

// exitOf adds to e how w has exited.
func exitOf(e *zerolog.Event, w *worker, how unix.WaitStatus) *zerolog.Event {
	e = e.Int("pid", w.pid)
	if w.failed != nil {
		e = e.Str(zerolog.ErrorFieldName, w.failed.Reason)
	}
	if how.Signaled() {
		return e.Str("signal", unix.SignalName(how.Signal()))
	}
	return e.Int("status", how.ExitStatus())
}

// describe says how w has exited, or why it could not run the command.
func describe(w *worker, how unix.WaitStatus) string {
	if w.failed != nil {
		return w.failed.Reason
	}
	if how.Signaled() {
		return "killed by " + unix.SignalName(how.Signal())
	}
	return fmt.Sprintf("exit status %d", how.ExitStatus())
}
