//go:build linux

package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// readiness is the socket that a worker says READY=1 on (sd_notify(3)).
//
// Every user of the machine can send to it, and before Linux 6.16 descriptors too, of
// which the last one to go may keep whoever drops it for as long as the sender likes
// (SO_LINGER). So the supervisor's own goroutine reads what comes without any; a datagram
// with descriptors is dropped by a goroutine that has the socket meanwhile.
type readiness struct {
	// address is the socket's, as NOTIFY_SOCKET has it: an abstract one, which the
	// kernel chose and which ends with the socket.
	address string
	fd      int
	nudge   time.Duration // how long it takes until a goroutine that is kept is nudged
	poller  *poller       // tells what comes; nil: nobody does
	what    ready         // and how it calls that
	shut    bool          // nothing comes any more

	mu       sync.Mutex
	dropping bool // a goroutine has the socket
	closed   bool // and is to close it
}

// newReadiness returns a socket that the caller must close.
func newReadiness(nudge time.Duration) (_ *readiness, err error) {
	r := &readiness{nudge: nudge}
	r.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	_ = unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) // unknown to older kernels
	if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(r.fd, &unix.SockaddrUnix{}); err != nil { // unix(7), autobind
		return nil, os.NewSyscallError("bind", err)
	}
	sa, err := unix.Getsockname(r.fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	u, ok := sa.(*unix.SockaddrUnix)
	if !ok || !strings.HasPrefix(u.Name, "@") {
		return nil, fmt.Errorf("the kernel has bound a socket to %v, not to an abstract address", sa)
	}
	r.address = u.Name
	return r, nil
}

// watch makes p tell of r.
func (r *readiness) watch(p *poller, what ready) error {
	r.poller, r.what = p, what
	return p.add(r.fd, what)
}

// readAtOnce is how many datagrams are read before something else gets its turn.
const readAtOnce = 8

// read returns whether a datagram that has come says that the worker with that pid
// is ready. Who it comes from the kernel tells: the worker itself, or somebody who
// could stop it as well. It never waits, and leaves what is too much for the next time.
func (r *readiness) read(pid int) bool {
	said := false
	var buf [4096]byte
	// Room for the credentials alone: of descriptors there is no more than a flag.
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for n := 0; (r.shut || n < readAtOnce) && !r.taken(); n++ {
		n, oobn, flags, err := r.peek(buf[:], oob)
		if err != nil {
			return said
		}
		said = said || saysReady(buf[:n]) && mayTell(oob[:oobn], pid)
		if flags&unix.MSG_CTRUNC != 0 {
			r.drop()
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

func mayTell(oob []byte, pid int) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return false
	}
	cred, err := unix.ParseUnixCredentials(&messages[0])
	return err == nil && (int(cred.Pid) == pid || cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
}

// peek returns the first datagram, and leaves it there: so it holds up nobody, if nobody
// takes it at the same time.
func (r *readiness) peek(buf, oob []byte) (n, oobn, flags int, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(r.fd, buf, oob, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return n, oobn, flags, err
		}
	}
}

// take takes the first datagram off, and drops it.
func (r *readiness) take() error {
	var buf [1]byte
	for {
		if _, _, err := unix.Recvfrom(r.fd, buf[:], unix.MSG_DONTWAIT); err != unix.EINTR {
			return err
		}
	}
}

// environ returns env with what a worker that has so many descriptors needs besides: in a
// slice of its own.
func environ(env []string, descriptors int, notify string) []string {
	all := append(make([]string, 0, len(env)+3), env...)
	if descriptors > statusFD {
		all = append(all, StatusEnv+"="+strconv.Itoa(statusFD))
	}
	if descriptors > startFD {
		all = append(all, StartEnv+"="+strconv.Itoa(startFD))
	}
	if notify != "" {
		all = append(all, "NOTIFY_SOCKET="+notify)
	}
	return all
}
