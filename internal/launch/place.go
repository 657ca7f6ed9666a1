package launch

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// placement is the work of putting sockets at first, first+1, ... in the calling thread's
// descriptor table, which no other thread may use.
type placement struct {
	first int
	at    []int        // the number that each socket has now
	own   map[int]bool // the numbers that the sockets had at the beginning
	moved map[int]int  // by number: the new number of a descriptor that is no socket, or -1 if there was none
}

// place puts the sockets at p.first and up, not close-on-exec. Undo puts back other descriptors
// at those numbers, such as the Go runtime's own.
func (p *Program) place() (undo func(), err error) {
	z := &placement{first: p.first, own: make(map[int]bool), moved: make(map[int]int)}
	for i, f := range p.fds {
		if err := f.Control(func(fd uintptr) { z.at = append(z.at, int(fd)) }); err != nil {
			return nil, fmt.Errorf("place socket %d: %w", i+1, err)
		}
		z.own[z.at[i]] = true
	}
	if err := z.placeAll(); err != nil {
		z.undo()
		return nil, p.placeError(err)
	}
	return z.undo, nil
}

func (z *placement) placeAll() (err error) {
	for number := z.first; number < z.first+len(z.at); number++ {
		if z.own[number] {
			continue
		}
		if z.moved[number], err = z.dup(number); err != nil && err != unix.EBADF {
			return os.NewSyscallError("fcntl", err)
		}
	}
	for i := range z.at {
		if err := z.place(i); err != nil {
			return err
		}
	}
	return nil
}

// place puts socket i at its number. If a later socket is there, that one moves away first. So
// there are spare descriptors only for sockets that were in the way and are not placed yet: for
// half of them at most, if their order is reversed.
func (z *placement) place(i int) error {
	from, to, later := z.at[i], z.first+i, z.at[i+1:]
	if from == to {
		_, err := unix.FcntlInt(uintptr(to), unix.F_SETFD, 0) // dup3 refuses, dup2 keeps close-on-exec
		return os.NewSyscallError("fcntl", err)
	}
	if slices.Contains(later, to) {
		spare, err := z.dup(to)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		for j := range later {
			if later[j] == to {
				later[j] = spare
			}
		}
	}
	if err := unix.Dup3(from, to, 0); err != nil {
		return os.NewSyscallError("dup3", err)
	}
	if !z.own[from] && !slices.Contains(later, from) {
		_ = unix.Close(from) // a spare that is needed no more
	}
	return nil
}

// dup duplicates fd to a number beyond the sockets'; it is -1 on errors.
func (z *placement) dup(fd int) (int, error) {
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, max(z.first+len(z.at), listenFDsStart))
}

func (z *placement) undo() {
	for number, n := range z.moved {
		if n < 0 {
			_ = unix.Close(number)
		} else {
			_ = unix.Dup3(n, number, unix.O_CLOEXEC)
		}
	}
}

// placeError adds advice to err if a limit is its reason: F_DUPFD fails with EMFILE,
// or with EINVAL if the lowest number asked for is beyond the limit.
func (p *Program) placeError(err error) error {
	hint := ""
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.EINVAL) {
		var lim unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) // 0 then
		hint = fmt.Sprintf(": this process may open %d files; raise the limit (ulimit -n, LimitNOFILE=)", lim.Cur)
	}
	return fmt.Errorf("place %d sockets: %w%s", len(p.fds), err, hint)
}
