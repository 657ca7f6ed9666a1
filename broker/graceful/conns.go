//go:build linux

package graceful

import (
	"crypto/tls"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// conns is connections that others close. Those that cannot be looked at are not in it. The zero value is empty.
type conns struct {
	mu    sync.Mutex
	all   map[net.Conn]struct{} // some may be closed
	sweep int                   // the length at which closed ones are removed
}

// minSweep is the length at which it is worth while to look for closed connections.
const minSweep = 64

// add adds a connection. From time to time it removes those that are closed, so that all holds no more than twice as many
// as are open.
func (s *conns) add(c net.Conn) {
	if rawOf(c) == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[net.Conn]struct{}{}
	}
	s.all[c] = struct{}{}
	if len(s.all) >= max(s.sweep, minSweep) {
		s.removeClosed()
		s.sweep = 2 * len(s.all)
	}
}

func (s *conns) removeClosed() {
	for c := range s.all {
		if !isOpen(c) {
			delete(s.all, c)
		}
	}
}

// len returns how many are open.
func (s *conns) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeClosed()
	return len(s.all)
}

// close closes all and returns how many were open.
func (s *conns) close() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeClosed()
	n := len(s.all)
	for c := range s.all {
		_ = c.Close()
	}
	clear(s.all)
	return n
}

// rawOf returns the socket under c, or nil if it is hidden.
func rawOf(c net.Conn) syscall.RawConn {
	for {
		if t, ok := c.(*tls.Conn); ok {
			c = t.NetConn()
			continue
		}
		sc, ok := c.(syscall.Conn)
		if !ok {
			return nil
		}
		raw, err := sc.SyscallConn()
		if err != nil {
			return nil
		}
		return raw
	}
}

// isOpen reports whether c was not closed by this process.
func isOpen(c net.Conn) bool {
	raw := rawOf(c)
	return raw != nil && raw.Control(func(uintptr) {}) == nil
}

// hasSent reports whether the client has sent something that was not read.
func hasSent(c net.Conn) bool {
	raw, n := rawOf(c), 0
	if raw != nil {
		_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	return n > 0
}
