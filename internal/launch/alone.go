//go:build linux

package launch

import (
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Vacant reports whether the numbers where the sockets of c go hold no descriptor of
// this program's own. All of those are close-on-exec, the runtime's too; what the
// process was started with is not, and gives way.
func Vacant(c Config) bool {
	for i := range c.Sockets {
		flags, err := unix.FcntlInt(uintptr(c.firstFD()+i), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC != 0 {
			return false
		}
	}
	return true
}

// ExecAlone is [Program.Exec] for a process in which nothing else runs yet: it needs no
// thread and no descriptor table of its own. It must be called on the main thread, before
// anything has made the runtime's poller begin, and where [Vacant] was true before fds
// were opened. It places fds, which it borrows, for the sockets that p was prepared with.
func (p *Program) ExecAlone(fds []*scmrights.FD) error {
	p.fds = fds
	return p.become()
}
