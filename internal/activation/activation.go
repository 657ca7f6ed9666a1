// Package activation takes the descriptors that a service manager, or another program, has opened for this process, and
// names those that this process passes on (sd_listen_fds(3)). It does not look at the descriptors.
package activation

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// first is the number of the first descriptor (SD_LISTEN_FDS_START).
const first = 3

// StoreEnv is the variable that a keeper sets instead of LISTEN_PID, because it does not know the pid of its child
// before the start: NUMBER:INODE of a passed socket. No other process has that socket at that number.
const StoreEnv = "FDBROKER_STORE"

// variables are those about passed descriptors. The last one is ours, the others are those of sd_listen_fds(3).
var variables = [...]string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES", StoreEnv}

// IsListenVariable reports whether key is a variable of sd_listen_fds(3).
func IsListenVariable(key string) bool {
	return slices.Contains(variables[:len(variables)-1], key)
}

// Environ returns the variables for a program that this process becomes, and that finds
// descriptors of these names open from 3 up.
func Environ(names []string) []string {
	env := []string{
		"LISTEN_FDS=" + strconv.Itoa(len(names)),
		"LISTEN_PID=" + strconv.Itoa(os.Getpid()),
		"LISTEN_FDNAMES=" + strings.Join(names, ":"),
	}
	if id, known := pidfdID(); known {
		env = append(env, "LISTEN_PIDFDID="+strconv.FormatUint(id, 10))
	}
	return env
}

// Passed is a descriptor that was passed.
type Passed struct {
	Name   string // "unknown" if none was given
	Number int    // as it was passed
	FD     *scmrights.FD
}

// Take returns the descriptors that were passed to this process, and makes them close-on-exec; the caller must close
// them. It removes the variables, also those for another process, which are no error. Call it once, before anything
// else opens descriptors, because it cannot tell those from the passed ones.
func Take() ([]Passed, error) {
	env := make(map[string]string)
	for _, key := range variables {
		if value, set := os.LookupEnv(key); set {
			env[key] = value
			_ = os.Unsetenv(key)
		}
	}
	if !ours(env) {
		return nil, nil
	}
	count, err := strconv.Atoi(env["LISTEN_FDS"])
	if err != nil || count < 0 || count > math.MaxInt32-first {
		return nil, fmt.Errorf("LISTEN_FDS=%s: not a number of descriptors", env["LISTEN_FDS"])
	}
	names, named := env["LISTEN_FDNAMES"]
	list := strings.Split(names, ":")
	if named && count > 0 && len(list) != count {
		return nil, fmt.Errorf("LISTEN_FDNAMES=%s: %d names for %d descriptors", names, len(list), count)
	}
	if err := closeOnExec(count); err != nil {
		return nil, err
	}
	passed := make([]Passed, count)
	for i := range passed {
		passed[i] = Passed{"unknown", first + i, scmrights.NewFD(first + i)}
		if named {
			passed[i].Name = list[i]
		}
	}
	return passed, nil
}

// Has reports whether a descriptor was passed to this process whose name is as wanted. [Take] must come later.
func Has(wanted func(name string) bool) bool {
	env := make(map[string]string)
	for _, key := range variables {
		env[key] = os.Getenv(key)
	}
	return ours(env) && slices.ContainsFunc(strings.Split(env["LISTEN_FDNAMES"], ":"), wanted)
}

// Foreign returns how many open sockets were passed to another process, and its pid, as LISTEN_PID says: a service
// manager may have started a shell that has started this process. [Take], which must come later, does not take them.
func Foreign() (sockets int, pid string) {
	env := make(map[string]string)
	for _, key := range variables {
		env[key] = os.Getenv(key)
	}
	count, err := strconv.Atoi(env["LISTEN_FDS"])
	for err == nil && !ours(env) && sockets < count && isInherited(first+sockets) {
		sockets++
	}
	return sockets, env["LISTEN_PID"]
}

// isInherited reports whether a descriptor is a socket that was open when this process began:
// it would be close-on-exec otherwise.
func isInherited(n int) bool {
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	var st unix.Stat_t
	return err == nil && flags&unix.FD_CLOEXEC == 0 && unix.Fstat(n, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// ours reports whether the variables are for this process, by its pid and, if both are known, by its pidfd's number.
func ours(env map[string]string) bool {
	if env["LISTEN_FDS"] != "" && ByStore(env[StoreEnv]) {
		return true
	}
	if env["LISTEN_FDS"] == "" || env["LISTEN_PID"] != strconv.Itoa(os.Getpid()) {
		return false
	}
	id, known := pidfdID()
	return env["LISTEN_PIDFDID"] == "" || !known || env["LISTEN_PIDFDID"] == strconv.FormatUint(id, 10)
}

// pidfdID returns the inode number of this process's pidfds, which unlike a pid is never used again. It needs pidfs
// (Linux 6.9) and 64 bits, because a 32-bit st_ino is but half of it. An exec changes neither pid nor number.
func pidfdID() (id uint64, known bool) {
	if strconv.IntSize < 64 {
		return 0, false
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(fd, &fs) != nil || fs.Type != unix.PID_FS_MAGIC || unix.Fstat(fd, &st) != nil {
		return 0, false
	}
	return st.Ino, true
}

// closeOnExec checks that the descriptors were passed, all of them before it changes any. One that is close-on-exec
// already is the Go runtime's own: it opens files of its cgroup before main.
func closeOnExec(count int) error {
	for n := first; n < first+count; n++ {
		flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC != 0 {
			err = unix.EBADF
		}
		if err != nil {
			return fmt.Errorf("LISTEN_FDS=%d: descriptor %d was not passed: %w", count, n, err)
		}
	}
	for n := first; n < first+count; n++ {
		if _, err := unix.FcntlInt(uintptr(n), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	return nil
}

// ByStore reports whether the value of StoreEnv is for this process.
func ByStore(value string) bool {
	number, inode, _ := strings.Cut(value, ":")
	n, err := strconv.Atoi(number)
	var st unix.Stat_t
	if err != nil || n < first || unix.Fstat(n, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return false
	}
	return strconv.FormatUint(st.Ino, 10) == inode
}

// Store returns the value of StoreEnv for the descriptor at index i of those passed.
func Store(i int, inode uint64) string {
	return strconv.Itoa(first+i) + ":" + strconv.FormatUint(inode, 10)
}
