//go:build linux

package socket

import (
	"os"

	"golang.org/x/sys/unix"
)

// A socket has an inode of its own, whose mode means nothing to the kernel once the
// socket is bound. Sockets of ours are given one that no other program gives its own,
// and so can be told, in whatever process they are found, from those of a stranger
// who happens to have the address. The inode's owner is who made the socket; only
// that user, or root, can change its mode.
const markMode = unix.S_ISVTX | 0o600

// mark marks a socket as ours. One that somebody else has made may not let us, and
// then it is not ours.
func mark(fd int) { _ = unix.Fchmod(fd, markMode) }

// isMarked reports whether a broker of this user has opened the socket.
func isMarked(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	return st.Mode&^unix.S_IFMT == markMode && st.Uid == uint32(os.Geteuid()), nil
}
