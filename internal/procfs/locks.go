package procfs

import (
	"bufio"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Locker returns the process that has a file locked with flock(2); 0 if none has, or it cannot be seen.
func Locker(path string) int {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var n, how, what string
		var pid int
		var major, minor uint32
		var inode uint64
		if _, err := fmt.Sscanf(lines.Text(), "%s FLOCK %s %s %d %x:%x:%d", &n, &how, &what, &pid, &major, &minor, &inode); err != nil {
			continue
		}
		if inode == st.Ino && unix.Mkdev(major, minor) == uint64(st.Dev) {
			return max(pid, 0)
		}
	}
	return 0
}
