//go:build linux

package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// readiness is the socket that a worker says READY=1 on (sd_notify(3)).
type readiness struct {
	fd int // -1: none
	// address is the socket's, as NOTIFY_SOCKET has it: an abstract one, which the
	// kernel chose and which ends with the socket.
	address string
}

func newReadiness() (r readiness, err error) {
	r.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return r, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return r, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(r.fd, &unix.SockaddrUnix{}); err != nil { // unix(7), autobind
		return r, os.NewSyscallError("bind", err)
	}
	sa, err := unix.Getsockname(r.fd)
	if err != nil {
		return r, os.NewSyscallError("getsockname", err)
	}
	u, ok := sa.(*unix.SockaddrUnix)
	if !ok || !strings.HasPrefix(u.Name, "@") {
		return r, fmt.Errorf("the kernel has bound a socket to %v, not to an abstract address", sa)
	}
	r.address = u.Name
	return r, nil
}

// read returns whether a datagram that has come says that the worker with that pid
// is ready. Who it comes from the kernel tells: the worker itself, or somebody who
// could stop it as well.
func (r *readiness) read(pid int) bool {
	if r.fd < 0 {
		return false
	}
	said := false
	var buf [4096]byte
	// Room for the credentials alone: descriptors that are sent along are dropped.
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, oobn, _, _, err := unix.Recvmsg(r.fd, buf[:], oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return said
		case mayTell(oob[:oobn], pid):
			for line := range bytes.SplitSeq(buf[:n], []byte("\n")) {
				said = said || string(line) == "READY=1"
			}
		}
	}
}

func mayTell(oob []byte, pid int) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return false
	}
	cred, err := unix.ParseUnixCredentials(&messages[0])
	return err == nil && (int(cred.Pid) == pid || cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
}

func (r *readiness) close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
	}
	r.fd = -1
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
