package supervisor

import (
	"bytes"
	"os"
	"runtime"
	"time"

	"github.com/fdbroker/fdbroker/internal/closer"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// readiness is the socket that a worker says READY=1 on (sd_notify(3)).
//
// Every user of the machine can send to it. Before Linux 6.16 that includes descriptors,
// whose close may block for as long as the sender likes (SO_LINGER). So the supervisor only
// reads datagrams without descriptors; the closer drops the others.
type readiness struct {
	address string // in the form of NOTIFY_SOCKET: abstract, so it ends with the socket
	fd      *scmrights.FD
	closer  *closer.Closer
	nudge   time.Duration // how long a close may block before it is interrupted
	poller  *poller       // nil: it does not report this socket
	id      ready
	shut    bool // no datagram can arrive any more
}

// newReadiness returns a socket that the caller must close.
func newReadiness(c *closer.Closer, nudge time.Duration) (_ *readiness, err error) {
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	r := &readiness{fd: scmrights.NewFD(n), closer: c, nudge: nudge}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	_ = unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) // unknown before Linux 6.16
	if err := unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(n, &unix.SockaddrUnix{}); err != nil { // unix(7), autobind
		return nil, os.NewSyscallError("bind", err)
	}
	sa, err := unix.Getsockname(n)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	r.address = sa.(*unix.SockaddrUnix).Name
	return r, nil
}

// watch makes p report r by that id.
func (r *readiness) watch(p *poller, id ready) error {
	r.poller, r.id = p, id
	return p.Add(r.fd, unix.EPOLLIN, uint64(id))
}

// maxDatagrams is how many datagrams one read takes, so that a flood delays nothing else.
const maxDatagrams = 8

// read reports whether a datagram says that the worker with that pid is ready. It never
// blocks, and leaves more than maxDatagrams to the next call.
func (r *readiness) read(pid int) bool {
	said := false
	var buf [4096]byte
	// Room for the credentials alone, so that a peek opens no descriptor.
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for n := 0; (r.shut || n < maxDatagrams) && !r.closer.Busy(r); n++ {
		n, oobn, flags, err := r.receive(buf[:], oob, unix.MSG_PEEK)
		if err != nil {
			return said
		}
		said = said || saysReady(buf[:n]) && maySay(oob[:oobn], pid)
		if flags&unix.MSG_CTRUNC != 0 {
			r.dropFirst()
		} else {
			_ = r.take()
		}
	}
	return said
}

func saysReady(text []byte) bool {
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		if string(line) == "READY=1" {
			return true
		}
	}
	return false
}

// maySay reports whether the sender is the worker, or a user that could stop it as well.
func maySay(oob []byte, pid int) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return false
	}
	cred, err := unix.ParseUnixCredentials(&messages[0])
	return err == nil && (int(cred.Pid) == pid || cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
}

// take drops the first datagram.
func (r *readiness) take() error {
	_, _, _, err := r.receive(make([]byte, 1), nil, 0)
	return err
}

// receive returns the first datagram. With MSG_PEEK that stays in the queue, so this closes nothing.
func (r *readiness) receive(buf, oob []byte, flags int) (n, oobn, got int, err error) {
	cerr := r.fd.Control(func(fd uintptr) {
		for err = unix.EINTR; err == unix.EINTR; {
			n, oobn, got, _, err = unix.Recvmsg(int(fd), buf, oob, flags|unix.MSG_DONTWAIT)
		}
	})
	if cerr != nil {
		err = cerr
	}
	return n, oobn, got, err
}

// dropFirst makes the closer drop the first datagram and its descriptors, which may block.
// Until then the poller does not report r.
func (r *readiness) dropFirst() {
	_ = r.poller.Mod(r.fd, 0, uint64(r.id))
	r.closer.Close(r, func() {
		_ = r.takeSlowly()
		_ = r.poller.Mod(r.fd, unix.EPOLLIN, uint64(r.id)) // fails if r was shut down meanwhile
	})
}

// shutdown makes r receive nothing more. What has arrived can still be read.
func (r *readiness) shutdown() {
	if r.shut {
		return
	}
	r.shut = true
	if r.poller != nil {
		_ = r.poller.Del(r.fd)
	}
	_ = r.fd.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RD) })
}

// close closes r and does not block: if datagrams are left, the closer drops them first. A worker that is just being
// started may have a duplicate of the socket; it must not be the one that closes descriptors with it.
func (r *readiness) close() {
	r.shutdown()
	if !r.closer.Busy(r) { // else both might have the same descriptors open, and either close them
		if _, _, _, err := r.receive(make([]byte, 1), nil, unix.MSG_PEEK); err == unix.EAGAIN {
			_ = r.fd.Close()
			return
		}
	}
	r.closer.Close(r, func() {
		for r.takeSlowly() == nil {
		}
		_ = r.fd.Close()
	})
}

// takeSlowly is take, with signals to its thread: they end the wait of a socket with SO_LINGER.
func (r *readiness) takeSlowly() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	over := make(chan struct{})
	defer close(over)
	go nudge(unix.Gettid(), r.nudge, over)
	return r.take()
}

// nudge signals one of this process's threads until over is closed, at first after that
// time, then ever more rarely. The runtime sends its threads SIGURG too, so it is harmless.
func nudge(thread int, after time.Duration, over <-chan struct{}) {
	for ; ; after = max(after, min(2*after, time.Second)) {
		select {
		case <-over:
			return
		case <-time.After(after):
			_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
		}
	}
}
