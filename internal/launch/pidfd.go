//go:build linux

package launch

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ownPidfdID returns what systemd calls a process's pidfd id, for this process:
// the inode number of its pidfds, which unlike a pid is never used again. It is
// false where the kernel has no pidfs (before 6.9), whose inode numbers alone mean
// that (systemd src/basic/pidfd-util.c), and on 32-bit machines, where st_ino is
// but half of it. Exec changes neither pid nor id.
func ownPidfdID() (id uint64, ok bool) {
	if strconv.IntSize < 64 {
		return 0, false
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0) // close-on-exec, as every pidfd
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != unix.PID_FS_MAGIC {
		return 0, false
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, false
	}
	return st.Ino, true
}
