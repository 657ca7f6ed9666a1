package socket

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// ErrBeyondRepair is the error of [Socket.Repair] if the kernel has no way to undo what was done to the socket or its
// path. Only another socket helps. Its text says what to do.
var ErrBeyondRepair = errors.New("cannot be repaired")

// Repair looks for what a holder of s may have done to it at the cost of the others, undoes it, and returns what it
// was, a few words for each. It returns nil, nil if nothing is wrong. The error says what could not be undone:
// [ErrBeyondRepair], or something that may pass, for example that another process has the port now.
//
// Repair undoes shutdown(2) and connect(2), a backlog that differs, SO_REUSEPORT set and SO_REUSEADDR cleared, and a
// path that was removed. It leaves O_NONBLOCK, and anything that need not be a socket, as they are. If the kernel caps
// the backlog below what was asked for, Repair says so once, and keeps what the kernel gives from then on.
func (s *Socket) Repair() (done []string, err error) {
	n := s.network()
	if n.In(^spec.All) {
		return nil, nil
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.health.retired {
		return nil, nil
	}
	return sockdiag.Ask(s.fd, func(fd int) ([]string, error) {
		r := repair{s, n, fd, nil}
		err := r.all()
		return r.done, err
	})
}

// repair is one call of [Socket.Repair].
type repair struct {
	*Socket
	network *spec.Network
	fd      int
	done    []string
}

func (r *repair) note(what string) { r.done = append(r.done, what) }

func (r *repair) all() error {
	var err error
	if r.network.In(spec.Inet) {
		err = r.reuse()
	}
	switch {
	case err != nil:
	case r.network.In(spec.TCP):
		err = r.tcp()
	case r.isShut():
		err = r.beyond("the socket of %s was shut down by a worker")
	case r.network.In(spec.Listening):
		err = r.unix()
	default:
		err = r.packet()
	}
	if r.file != nil && !r.health.replaced && !errors.Is(err, ErrBeyondRepair) {
		err = errors.Join(err, r.path())
	}
	return err
}

// reuse undoes changes of the options that say which other sockets may have the port. It comes before listening again,
// which SO_REUSEADDR allows while accepted connections live (docs/kernel.md, listen again).
func (r *repair) reuse() error {
	if err := r.option("SO_REUSEPORT", unix.SO_REUSEPORT, r.health.reusePort); err != nil {
		return err
	}
	return r.option("SO_REUSEADDR", unix.SO_REUSEADDR, r.health.reuseAddr)
}

func (r *repair) option(name string, number int, want bool) error {
	is, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, number)
	if err != nil || is == toInt(want) {
		return os.NewSyscallError("getsockopt", err)
	}
	what := name + " set"
	if is == 0 {
		what = name + " cleared"
	}
	if err := (sockopt{name: name, level: unix.SOL_SOCKET, number: number, value: toInt(want)}).set(r.fd); err != nil {
		return err
	}
	now, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, number)
	return r.noteIf(err != nil || now != is, what)
}

// noteIf notes what was undone, and is an error if nothing has changed although the kernel says so. That may pass:
// perhaps a worker does the same harm again and again.
func (r *repair) noteIf(changed bool, what string) error {
	if !changed {
		return fmt.Errorf("%s, and undoing that has no effect", what)
	}
	r.note(what)
	return nil
}

func (r *repair) tcp() error {
	info, err := unix.GetsockoptTCPInfo(r.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if info.State == sockdiag.Listen {
		r.health.queue = int32(min(info.Unacked, math.MaxInt32))
		return r.limit(int(info.Sacked))
	}
	what := "shut down"
	if queue := r.health.queue; queue > 0 {
		what += fmt.Sprintf(", which reset what was queued: %d connections at the last look", queue)
	}
	if info.State != sockdiag.Close { // a worker has connected it, too
		if err := disconnect(r.fd); err != nil {
			return err
		}
	}
	if err := r.bindAgain(); err != nil {
		return err
	}
	if err := r.listenBeside(); err != nil {
		return r.explain(os.NewSyscallError("listen", err))
	}
	if now, err := unix.GetsockoptTCPInfo(r.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && now.State != sockdiag.Listen {
		return r.noteIf(false, "shut down")
	}
	r.note(what)
	r.health.queue = 0
	return r.checkBound()
}

// limit makes the queue's limit the backlog, if it is not. net.core.somaxconn caps it, which may have been lowered since
// the socket was made. It is that of the socket's network namespace, which this process can only see by its effect.
func (r *repair) limit(is int) error {
	want := r.Backlog()
	if is == want {
		return nil
	}
	now, err := r.listenAgain(want)
	if err != nil {
		return err
	}
	again := now
	if now < want && now != somaxconn() {
		if again, err = r.listenAgain(want); err != nil {
			return err
		}
	}
	if capped := now < want && again == now && (now == somaxconn() || r.isForeign()); capped {
		r.backlog.Store(int32(now))
		r.note(fmt.Sprintf("backlog %d was asked for, the kernel gives %d: net.core.somaxconn is %d", want, now, now))
		return nil
	}
	return r.noteIf(now != is, fmt.Sprintf("backlog %d instead of %d", is, want))
}

// listenAgain listens with a backlog, and returns the limit that the queue has then.
func (r *repair) listenAgain(backlog int) (limit int, err error) {
	if err := unix.Listen(r.fd, backlog); err != nil {
		return 0, os.NewSyscallError("listen", err)
	}
	f, err := r.figures(nil)
	return int(f.Limit), err
}

// isForeign reports whether the socket was made in another network namespace than that of this thread.
func (r *repair) isForeign() bool {
	is, err := unix.GetsockoptUint64(r.fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE) // Linux 5.14
	if err != nil {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	own, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return err == nil && is != own
}

func (r *repair) unix() error {
	f, err := r.figures(nil)
	if err != nil {
		return nil // it can only be asked in the network namespace where it was opened
	}
	r.health.queue = int32(min(f.Queue, math.MaxInt32))
	return r.limit(int(f.Limit))
}

func (r *repair) packet() error {
	if _, err := unix.Getpeername(r.fd); err != nil {
		return nil // it is not connected, as it should be
	}
	if err := disconnect(r.fd); err != nil {
		return err
	}
	derr := r.deviceAgain()
	_, err := unix.Getpeername(r.fd)
	if err := r.noteIf(err != nil, "connected to one peer"); err != nil || !r.network.In(spec.UDP) {
		return err
	}
	if err := r.bindAgain(); err != nil {
		return err
	}
	return cmp.Or(r.checkBound(), derr)
}

// deviceAgain binds the socket to its interface again, which undoing connect(2) of a UDP socket has undone, too
// (docs/kernel.md, Options).
func (r *repair) deviceAgain() error {
	device := r.Spec().Opts().Device
	if device == "" {
		return nil
	}
	return spec.Refused("device", "setsockopt", unix.BindToDevice(r.fd, device))
}

// beyond returns an [ErrBeyondRepair] that says what has happened and what helps. A reload binds a new socket beside the
// old one, except at an abstract name. After an unbind, workers with a socket of a UDP port are in the way, too.
func (r *repair) beyond(what string) error {
	const reload = "fdclient reload --rebind; if it is not of the configuration: "
	advice := reload + "fdclient unbind %s, bind it again, and start its workers again"
	if abstract := strings.HasPrefix(r.Address(), "@"); abstract || r.network.In(spec.UDP) {
		advice = "stop its workers, fdclient unbind %s, then bind it again"
		if !abstract {
			advice = reload + advice
		}
	}
	name := r.Name()
	return fmt.Errorf(what+" and %w: "+advice, name, ErrBeyondRepair, name)
}

// isShut reports whether a socket was shut down for reading, which the kernel says only in this way (docs/kernel.md,
// Listeners and shutdown).
func (r *repair) isShut() bool {
	fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) != 0
}

// bindAgain binds a socket that was bound to port 0, and has lost its port. Any other socket still has its port, which
// is EINVAL.
func (r *repair) bindAgain() error {
	err := bindEndpoint(r.fd, endpointOf(r.Address()))
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	return r.explain(err)
}

func (r *repair) checkBound() error {
	is, err := sockdiag.BoundTo(r.fd)
	if err != nil || is != r.Address() {
		return errors.Join(err, r.beyond(fmt.Sprintf("the socket of %%s is now bound to %q", is)))
	}
	return nil
}

func (r *repair) explain(err error) error {
	if !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	return fmt.Errorf("somebody else has %s: %w", r.Address(), err)
}

// path makes the path lead to the socket again. It removes a file that is there by now only if no process answers
// there.
func (r *repair) path() error {
	now, err := sockfile.Find(r.file.Path())
	if err == nil && now.Same(r.file) {
		if _, ok := r.file.Backup(); !ok && r.file.HasBackup() {
			r.file.KeepBackup()
		}
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	what := "path removed"
	if err == nil {
		what = "path replaced"
	}
	if err := r.linkAgain(); err != nil {
		return err
	}
	now, err = sockfile.Find(r.file.Path())
	return r.noteIf(err != nil || now.Same(r.file), what)
}

func (r *repair) linkAgain() error {
	path := r.file.Path()
	if err := makeDir(r.Spec()); err != nil {
		return err
	}
	lock, err := sockfile.TryLock(path)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := sockfile.Clear(path, sockfile.ClearConfig{Type: r.network.Type, SkipHolders: true}); err != nil {
		return err
	}
	backup, ok := r.file.Backup()
	if !ok {
		return r.beyond("the path of %s was removed")
	}
	switch err := unix.Linkat(unix.AT_FDCWD, backup, unix.AT_FDCWD, path, 0); err {
	case nil:
		return nil
	case unix.EEXIST: // made since Clear: the next look sees what it is
		return os.NewSyscallError("linkat", err)
	default:
		return errors.Join(r.beyond("the path of %s was removed"), os.NewSyscallError("linkat", err))
	}
}
