//go:build linux

package broker

import "syscall"

// rawConn is the raw socket of a handle. Each call acts on the socket that the handle has then.
type rawConn struct{ *handle }

// SyscallConn returns the raw socket. Its methods act on the socket that the broker gives at the time, and those of a
// PacketConn return what ReadFrom and WriteTo would: [ErrDrained] from Read, after a drain.
//
// All holders share the socket, so they share what the program changes: O_NONBLOCK, the backlog, every socket option. If
// the broker binds another socket by the name, that has the options of its spec, and not those that were set here.
func (h *handle) SyscallConn() (syscall.RawConn, error) { return rawConn{h}, nil }

// Control implements [syscall.RawConn].
func (r rawConn) Control(f func(fd uintptr)) error {
	return r.use(func(s netSocket) error {
		rc, err := s.SyscallConn()
		if err != nil {
			return err
		}
		return rc.Control(f)
	})
}

// Read implements [syscall.RawConn].
func (r rawConn) Read(f func(fd uintptr) (done bool)) error {
	read := func(s netSocket) error {
		rc, err := s.SyscallConn()
		if err != nil {
			return err
		}
		return rc.Read(f)
	}
	if r.packet {
		return r.receive(read)
	}
	return r.use(read) // an error
}

// Write implements [syscall.RawConn].
func (r rawConn) Write(f func(fd uintptr) (done bool)) error {
	return r.use(func(s netSocket) error {
		rc, err := s.SyscallConn()
		if err != nil {
			return err
		}
		return rc.Write(f)
	})
}
