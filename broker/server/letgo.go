//go:build linux

package server

import (
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// letGoTime is how long a server that stops waits for a close that may take for ever: as
// a rule it takes no time, and then nothing is left of it.
const letGoTime = 100 * time.Millisecond

// letGo calls f, which closes what a peer may have sent: one who has chosen it so can make
// that block for an hour. The session waits for it, so that its peer cannot have many of
// those; a server that stops does not wait for the session. So f runs in a goroutine that
// may outlive Serve, and uses nothing but what it closes.
func (s *session) letGo(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return
	case <-s.ctx.Done():
	}
	await(done)
}

// await waits until done, which is closed when something has been, but not for long.
func await(done <-chan struct{}) {
	select {
	case <-done:
	case <-time.After(letGoTime):
	}
}

// closeAtLast calls f, which closes sock for good. One that may be anything is not waited
// for: who else has had it can make its close block.
func closeAtLast(sock *socket.Socket, f func() error) error {
	if !sock.Any() {
		return f()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f() // there is nothing that it could be told of
	}()
	await(done)
	return nil
}

// letGoAll closes fds, which came with a call.
func (s *session) letGoAll(fds []*scmrights.FD) {
	if len(fds) > 0 {
		s.letGo(func() { scmrights.CloseAll(fds) })
	}
}

// letGoUnread closes what came with calls that are not answered any more.
func (s *session) letGoUnread() {
	s.shut()
	if s.taking { // without, there is nothing
		s.letGo(s.conn.Discard)
	}
}

// hangUp closes the connection, in which descriptors may wait that nobody has read.
func (s *session) hangUp() {
	if s.taking || !s.server.desk.guarded {
		s.letGo(func() { _ = s.file.Close() })
	} else {
		_ = s.file.Close()
	}
}

// sever closes the connection while its goroutine may be blocked in a system call on it:
// an eventfd takes its number, so that the program which goes on in this process does not
// close the connection, and with it what waits in it, before it has begun.
func (s *session) sever(instead *scmrights.FD) {
	_ = s.rc.Control(func(fd uintptr) {
		_ = instead.Control(func(n uintptr) { _ = unix.Dup3(int(n), int(fd), unix.O_CLOEXEC) })
	})
	_ = s.file.Close()
}

// calm makes the close of fds, which somebody without privilege has brought, not wait for
// what is unsent in them. A socket that listens does not wait, and may be in use.
func calm(fds []*scmrights.FD) {
	for _, f := range fds {
		_ = f.Control(func(fd uintptr) {
			if listens, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && listens == 0 {
				_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
			}
		})
	}
}
