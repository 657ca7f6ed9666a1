//go:build linux

package scmrights

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Stream is a connected Unix stream socket whose operations block their thread in the
// kernel, not a goroutine in the runtime's poller. For one short exchange that is several
// times faster. Its methods may be called as those of a [Conn].
type Stream struct {
	fd *FD
}

// connectTurn is how long one system call waits for a place in the listener's queue; then
// connect looks at its context again.
const connectTurn = 100 * time.Millisecond

// Dial connects to the Unix socket at path; "@" begins an abstract name. While the listener's
// queue is full it waits, until ctx is done. The caller must close the Stream.
func Dial(ctx context.Context, path string) (*Stream, error) {
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &Stream{fd: NewFD(n)}
	if err := s.connect(ctx, n, path); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stream) connect(ctx context.Context, n int, path string) error {
	if ctx.Done() != nil {
		// A blocking connect to a full queue waits for ever (unix(7)): only a timeout or a signal ends it.
		tv := unix.NsecToTimeval(int64(connectTurn))
		if err := unix.SetsockoptTimeval(n, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	sa := &unix.SockaddrUnix{Name: path}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch err := unix.Connect(n, sa); err {
		case nil:
			return nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return &os.PathError{Op: "connect", Path: path, Err: err}
		}
	}
}

// Interrupt makes the operations that block on s return, and all later ones fail, as if the
// peer had gone. It may be called at any time.
func (s *Stream) Interrupt() {
	_ = s.fd.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
}

// Close closes s. It may be called again, and while an operation blocks; that then returns an error.
func (s *Stream) Close() error {
	n, ok := s.fd.acquire()
	if !ok {
		return nil
	}
	defer s.fd.release()
	_ = s.fd.Close() // no operation begins from now on; if one has begun, ours is not the only use
	if s.fd.state.Load() != fdClosed+fdUse {
		_ = unix.Shutdown(n, unix.SHUT_RDWR)
	}
	return nil
}

// File takes s and returns its socket as a non-blocking file in the runtime's poller, which
// the caller must close. No operation may be under way.
func (s *Stream) File() (*os.File, error) {
	_ = s.fd.Control(func(fd uintptr) { _ = unix.SetNonblock(int(fd), true) }) // cannot fail for a socket
	f, err := s.fd.File("control connection")
	if err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("hand over stream: %w", err)
	}
	return f, nil
}

// Send is [Conn.Send].
func (s *Stream) Send(b []byte, fds ...*FD) error {
	if len(b) == 0 {
		return nothingToSend(fds)
	}
	fd, ok := s.fd.acquire()
	if !ok {
		return os.ErrClosed
	}
	defer s.fd.release()
	for {
		var err error
		if b, fds, err = sendAll(fd, b, fds); err != ErrWouldBlock { // else a time limit of the socket ran out
			return err
		}
	}
}

// Recv is [Conn.Recv].
func (s *Stream) Recv(b []byte, limit int) (int, []*FD, error) {
	fd, ok := s.fd.acquire()
	if !ok {
		return 0, nil, os.ErrClosed
	}
	defer s.fd.release()
	for {
		if n, fds, err := receive(fd, b, limit); err != ErrWouldBlock { // as in Send
			return n, fds, err
		}
	}
}

// Control calls f with the socket's descriptor.
func (s *Stream) Control(f func(fd uintptr)) error { return s.fd.Control(f) }
