package supervisor

import (
	"os"
	"runtime"
	"time"

	"github.com/fdbroker/fdbroker/internal/closer"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// mailbox is a socket for the datagrams of a worker, or of a client that asks for a roll.
//
// Every user of the machine can send to it. Before Linux 6.16 that includes descriptors,
// whose close may block for as long as the sender likes (SO_LINGER). So the supervisor only
// reads datagrams without descriptors; the closer drops the others.
type mailbox struct {
	address string // in the form of NOTIFY_SOCKET: abstract, so it ends with the socket
	fd      *scmrights.FD
	closer  *closer.Closer
	nudge   time.Duration // how long a close may block before it is interrupted
	poller  *poller       // nil: it does not report this socket
	id      ready
	shut    bool // no datagram can arrive any more
}

// datagram is what somebody has sent. Its text is valid until the next one is read.
type datagram struct {
	text []byte
	from string // an address, as that of a mailbox; "": the sender has none
	peer unix.Ucred
}

// newMailbox returns a socket, which the caller must close, at that address, or at a new one if it is empty.
func newMailbox(address string, c *closer.Closer, nudge time.Duration) (_ *mailbox, err error) {
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	r := &mailbox{fd: scmrights.NewFD(n), closer: c, nudge: nudge}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	_ = unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) // unknown before Linux 6.16
	if err := unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(n, &unix.SockaddrUnix{Name: address}); err != nil { // without an address: unix(7), autobind
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
func (r *mailbox) watch(p *poller, id ready) error {
	r.poller, r.id = p, id
	return p.Add(r.fd, unix.EPOLLIN, uint64(id))
}

// maxDatagrams is how many datagrams one read takes, so that a flood delays nothing else.
const maxDatagrams = 8

// each calls f with the datagrams that have come. It never blocks, and leaves more than maxDatagrams to the next call.
func (r *mailbox) each(f func(d datagram)) {
	var buf [4096]byte
	// Room for the credentials alone, so that a peek opens no descriptor.
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for n := 0; (r.shut || n < maxDatagrams) && !r.closer.Busy(r); n++ {
		m, err := r.receive(buf[:], oob, unix.MSG_PEEK)
		if err != nil {
			return
		}
		if cred, ok := credentials(oob[:m.oobn]); ok {
			f(datagram{buf[:m.n], m.from, cred})
		}
		if m.flags&unix.MSG_CTRUNC != 0 {
			r.dropFirst()
		} else {
			_ = r.take()
		}
	}
}

// credentials returns the sender's.
func credentials(oob []byte) (unix.Ucred, bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return unix.Ucred{}, false
	}
	cred, err := unix.ParseUnixCredentials(&messages[0])
	if err != nil {
		return unix.Ucred{}, false
	}
	return *cred, true
}

// answer sends text to an address from which a datagram has come, unless that has no room for it.
func (r *mailbox) answer(address, text string) {
	_ = r.fd.Control(func(fd uintptr) {
		_ = unix.Sendto(int(fd), []byte(text), unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: address})
	})
}

// take drops the first datagram.
func (r *mailbox) take() error {
	_, err := r.receive(make([]byte, 1), nil, 0)
	return err
}

// received is what a call of recvmsg(2) returns.
type received struct {
	n, oobn, flags int
	from           string
}

// receive returns the first datagram. With MSG_PEEK that stays in the queue, so this closes nothing.
func (r *mailbox) receive(buf, oob []byte, flags int) (m received, err error) {
	cerr := r.fd.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		for err = unix.EINTR; err == unix.EINTR; {
			m.n, m.oobn, m.flags, sa, err = unix.Recvmsg(int(fd), buf, oob, flags|unix.MSG_DONTWAIT)
		}
		if u, ok := sa.(*unix.SockaddrUnix); ok {
			m.from = u.Name
		}
	})
	if cerr != nil {
		err = cerr
	}
	return m, err
}

// dropFirst makes the closer drop the first datagram and its descriptors, which may block.
// Until then the poller does not report r.
func (r *mailbox) dropFirst() {
	_ = r.poller.Mod(r.fd, 0, uint64(r.id))
	r.closer.Close(r, func() {
		_ = r.takeSlowly()
		_ = r.poller.Mod(r.fd, unix.EPOLLIN, uint64(r.id)) // fails if r was shut down meanwhile
	})
}

// shutdown makes r receive nothing more. What has arrived can still be read.
func (r *mailbox) shutdown() {
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
func (r *mailbox) close() {
	r.shutdown()
	if !r.closer.Busy(r) { // else both might have the same descriptors open, and either close them
		if _, err := r.receive(make([]byte, 1), nil, unix.MSG_PEEK); err == unix.EAGAIN {
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
func (r *mailbox) takeSlowly() error {
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
