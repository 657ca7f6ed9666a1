//go:build linux

package launch

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// place puts the sockets at p.first and up in the calling thread's table, not
// close-on-exec, and duplicates elsewhere, which are. It returns a function that
// puts back what stood there.
func (p *Program) place() (undo func(), err error) {
	sockets, err := p.moved()
	if err != nil {
		return nil, err
	}
	displaced, err := p.displaced()
	if err != nil {
		return nil, err
	}
	undo = func() {
		for i, n := range displaced {
			if n < 0 {
				_ = unix.Close(p.first + i)
			} else {
				_ = unix.Dup3(n, p.first+i, unix.O_CLOEXEC)
			}
		}
	}
	for i, n := range sockets {
		if err := unix.Dup3(n, p.first+i, 0); err != nil {
			undo()
			return nil, p.placeError("dup3", err)
		}
	}
	return undo, nil
}

// moved returns duplicates of the sockets, which stand where no socket belongs.
// One socket may stand where another belongs, and one that stands where it
// belongs itself would keep its close-on-exec flag (dup2(2)).
func (p *Program) moved() ([]int, error) {
	to := make([]int, len(p.fds))
	for i, f := range p.fds {
		var derr error
		if err := f.Control(func(fd uintptr) { to[i], derr = p.dup(fd) }); err != nil {
			return nil, fmt.Errorf("place socket %d: %w", i+1, err)
		}
		if derr != nil {
			return nil, p.placeError("fcntl", derr)
		}
	}
	return to, nil
}

// displaced returns duplicates of what stands where sockets belong, or -1.
func (p *Program) displaced() ([]int, error) {
	to := make([]int, len(p.fds))
	for i := range to {
		n, err := p.dup(uintptr(p.first + i))
		if err != nil && err != unix.EBADF {
			return nil, p.placeError("fcntl", err)
		}
		to[i] = n // -1 where there is nothing
	}
	return to, nil
}

// dup duplicates fd to a number beyond those where sockets belong.
func (p *Program) dup(fd uintptr) (int, error) {
	return unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, max(p.first+len(p.fds), listenFDsStart))
}

// placeError says what to do about err where a limit is its reason: F_DUPFD fails
// with EMFILE, or with EINVAL where the lowest number asked for is beyond the limit.
func (p *Program) placeError(call string, err error) error {
	hint := ""
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.EINVAL) {
		var lim unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) // 0 then
		hint = fmt.Sprintf(": this process may open %d files; raise the limit (ulimit -n, LimitNOFILE=)", lim.Cur)
	}
	return fmt.Errorf("place %d sockets: %w%s", len(p.fds), os.NewSyscallError(call, err), hint)
}
