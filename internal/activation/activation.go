//go:build linux

// Package activation takes the sockets that a service manager has opened for this
// process (sd_listen_fds(3)). What they are is not its business.
package activation

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// first is the number of the first descriptor (SD_LISTEN_FDS_START).
const first = 3

// StoreEnv is set by a parent that cannot know the pid of its child, which LISTEN_PID
// would be, before it starts: NUMBER:INODE of a socket that is among what it passes.
// Nobody else has that one there.
const StoreEnv = "FDBROKER_STORE"

// variables are those that speak of descriptors.
var variables = [...]string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES", StoreEnv}

// Passed is a descriptor that was passed.
type Passed struct {
	Name   string // "unknown" where none was given
	Number int    // as it was passed
	FD     *scmrights.FD
}

// Take returns the descriptors that the environment says were passed to this
// process, close-on-exec from now on; the caller must close them. It removes the
// variables that say so, also where they are another process's, which is no error.
// Call it once, before anything else opens descriptors, as those passed could not
// be told from these.
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

// Strays is sockets that this process has inherited, and that are another one's by
// LISTEN_PID, as where a service manager has started a shell that starts this process.
type Strays struct {
	PID     string // as LISTEN_PID has it
	Sockets int    // 0: there are none
}

// FindStrays returns what [Take] will not take, of what is open. What a parent has left of
// its own environment alone is none. Call it before Take.
func FindStrays() Strays {
	env := make(map[string]string)
	for _, key := range variables {
		env[key] = os.Getenv(key)
	}
	s := Strays{PID: env["LISTEN_PID"]}
	count, err := strconv.Atoi(env["LISTEN_FDS"])
	if err != nil || ours(env) {
		return s
	}
	for s.Sockets < count && isInherited(first+s.Sockets) {
		s.Sockets++
	}
	return s
}

// isInherited reports whether a descriptor is a socket that was open when this process
// began: its own are close-on-exec.
func isInherited(n int) bool {
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	var st unix.Stat_t
	return err == nil && flags&unix.FD_CLOEXEC == 0 && unix.Fstat(n, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// ours reports whether the variables are for this process: by its pid and, where
// given and to be had, by the inode of its pidfd, which no other process ever has.
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

// pidfdID returns the inode of a pidfd of this process, where the kernel has pidfs
// (Linux 6.9).
func pidfdID() (id uint64, known bool) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	const pidfsMagic = 0x50494446
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(fd, &fs) != nil || fs.Type != pidfsMagic || unix.Fstat(fd, &st) != nil {
		return 0, false
	}
	return st.Ino, true
}

// closeOnExec checks that the descriptors exist, all of them before it changes any.
func closeOnExec(count int) error {
	for n := first; n < first+count; n++ {
		if _, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err != nil {
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
