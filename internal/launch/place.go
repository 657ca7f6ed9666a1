//go:build linux

package launch

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// place puts the sockets at p.first and up in the calling thread's table, not
// close-on-exec. It returns a function that puts back what else stood there. As a
// broker may hold about as many sockets as it may open files, it takes no more
// descriptors than one for each of those others, and one.
func (p *Program) place() (undo func(), err error) {
	z, err := p.zone()
	if err != nil {
		return nil, err
	}
	// First those whose place is free, and whatever belongs where they have been: what
	// is left then are cycles.
	for _, cycles := range []bool{false, true} {
		for i := range z.at {
			if z.standing[i] != none && !cycles {
				continue
			}
			if err := z.place(i); err != nil {
				z.undo()
				return nil, p.placeError("dup3", err)
			}
		}
	}
	return z.undo, nil
}

// zone is the numbers where sockets belong, and where they are.
type zone struct {
	first     int
	at        []int  // of each socket: its number now
	placed    []bool // of each socket
	spare     int    // number of the socket that had to make way, or none
	standing  []int  // of each number: which socket, not placed yet, has it, or none
	displaced []int  // of each number: a duplicate of what else stood there, none, or untouched
}

const (
	none      = -1 // no descriptor, and no socket
	untouched = -2 // a number at which one of the sockets stood
)

func (p *Program) zone() (*zone, error) {
	n := len(p.fds)
	numbers := slices.Repeat([]int{none}, 3*n)
	z := &zone{
		first: p.first, at: numbers[:n:n], placed: make([]bool, n), spare: none,
		standing: numbers[n : 2*n : 2*n], displaced: numbers[2*n:],
	}
	for i, f := range p.fds {
		// No other thread has this table, or else none runs: the number stays what it is.
		if err := f.Control(func(fd uintptr) { z.at[i] = int(fd) }); err != nil {
			return nil, fmt.Errorf("place socket %d: %w", i+1, err)
		}
		if number, inside := z.socketAt(z.at[i]); inside {
			z.standing[number], z.displaced[number] = i, untouched
		}
	}
	for i := range p.fds {
		if z.standing[i] != none {
			continue
		}
		n, err := z.dup(z.first + i)
		if err != nil && err != unix.EBADF {
			return nil, p.placeError("fcntl", err)
		}
		z.displaced[i] = n
	}
	return z, nil
}

// socketAt returns which socket belongs at a descriptor's number, if one does.
func (z *zone) socketAt(number int) (i int, inside bool) {
	i = number - z.first
	return i, i >= 0 && i < len(z.at)
}

// dup duplicates fd to a number beyond those where sockets belong; it is -1 on errors.
func (z *zone) dup(fd int) (int, error) {
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, max(z.first+len(z.at), listenFDsStart))
}

// place puts socket i where it belongs, then the one that belongs where i has been, and
// so on.
func (z *zone) place(i int) error {
	for inside := true; inside && !z.placed[i]; {
		to, from := z.first+i, z.at[i]
		if err := z.clear(i); err != nil {
			return err
		}
		if err := move(from, to); err != nil {
			return err
		}
		z.placed[i] = true
		if from == z.spare {
			_ = unix.Close(from)
			z.spare = none
		}
		if i, inside = z.socketAt(from); inside {
			z.standing[i] = none
		}
	}
	return nil
}

// clear makes way for socket i. Only at the first place of a cycle another one stands.
func (z *zone) clear(i int) (err error) {
	j := z.standing[i]
	if j == none || j == i {
		return nil
	}
	if z.spare, err = z.dup(z.first + i); err != nil {
		return err
	}
	z.standing[i] = none
	z.at[j] = z.spare
	return nil
}

// move makes to a duplicate of from that is not close-on-exec. One that stands where it
// belongs would keep that flag (dup2(2)).
func move(from, to int) error {
	if from == to {
		_, err := unix.FcntlInt(uintptr(to), unix.F_SETFD, 0)
		return err
	}
	return unix.Dup3(from, to, 0)
}

// undo puts back what is no socket: the runtime's own descriptors above all.
func (z *zone) undo() {
	for i, n := range z.displaced {
		switch n {
		case untouched:
		case none:
			_ = unix.Close(z.first + i)
		default:
			_ = unix.Dup3(n, z.first+i, unix.O_CLOEXEC)
		}
	}
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
