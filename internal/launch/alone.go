//go:build linux

package launch

import (
	"strings"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Give makes p place fds, which it borrows, for the sockets that it was prepared with.
func (p *Program) Give(fds []*scmrights.FD) { p.fds = fds }

// Alone reports whether [Program.ExecAlone] will do for a program of c, whose Environ is
// this process's own: whether the runtime has no descriptors where sockets go, and will
// not open any, as it does for the poller that its timers need.
//
// All of those are close-on-exec. What the process was started with is not, and gives way.
// It is the garbage collector that would set the first timer, for the scavenger, and
// without GOGC or GOMEMLIMIT it does not begin before 4 MB are allocated: far more than
// what becomes of so small an environment.
func Alone(c Config) bool {
	for i := range c.Sockets {
		flags, err := unix.FcntlInt(uintptr(c.firstFD()+i), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC != 0 {
			return false
		}
	}
	size := 0
	for _, text := range [...][]string{c.Environ, c.Command} {
		for _, word := range text {
			if strings.HasPrefix(word, "GOGC=") || strings.HasPrefix(word, "GOMEMLIMIT=") {
				return false
			}
			size += len(word) + wordSize
		}
	}
	return size <= smallSize
}

const (
	wordSize  = 64       // of what is kept of each word, about
	smallSize = 64 << 10 // of all of them
)

// ExecAlone is [Program.Exec] for a process in which nothing else runs yet, and for which
// [Alone] was true before it opened any descriptor: it needs no thread and no descriptor
// table of its own. It must be called on the main thread.
func (p *Program) ExecAlone() error { return p.become() }
