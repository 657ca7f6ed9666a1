package launch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// TestPlaceOrders places sockets that have each other's numbers in any order, among other
// descriptors and beyond.
func TestPlaceOrders(t *testing.T) {
	const first, most = 200, 12
	for round := range 200 {
		err := onOwnThread(func() error {
			if err := leaveTable(); err != nil {
				return err
			}
			return placeShuffled(first, 1+rand.IntN(most))
		})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

// placeShuffled makes files at random numbers from first up, places n of them, and looks at
// what is where. One file is not to be placed.
func placeShuffled(first, n int) error {
	numbers := rand.Perm(2 * n)[:n+1]
	var inodes []uint64
	p := &Program{first: first}
	for _, at := range numbers {
		f, err := unix.MemfdCreate("", unix.MFD_CLOEXEC)
		if err != nil {
			return err
		}
		if err := unix.Dup3(f, first+at, unix.O_CLOEXEC); err != nil {
			return err
		}
		inode, _, err := look(f)
		if err != nil {
			return err
		}
		inodes = append(inodes, inode)
		p.fds = append(p.fds, scmrights.NewFD(first+at))
	}
	other := numbers[n]
	p.fds = p.fds[:n]
	undo, err := p.place()
	if err != nil {
		return err
	}
	for i, want := range inodes[:n] {
		inode, flags, err := look(first + i)
		if err != nil || inode != want || flags != 0 {
			return fmt.Errorf("numbers %v: socket %d: inode %d, want %d, flags %d, %v", numbers, i, inode, want, flags, err)
		}
	}
	undo()
	if inode, _, err := look(first + other); err != nil || inode != inodes[n] {
		return fmt.Errorf("numbers %v: another descriptor was not put back: %v", numbers, err)
	}
	for at := range n { // numbers that were free are free again
		if _, _, err := look(first + at); !slices.Contains(numbers, at) && err != unix.EBADF {
			return fmt.Errorf("numbers %v: something is left at %d", numbers, at)
		}
	}
	return nil
}

func look(fd int) (inode uint64, flags int, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, 0, err
	}
	flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return st.Ino, flags, err
}
