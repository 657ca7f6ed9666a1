package launch_test

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// probe is the state of the exec'd program.
type probe struct {
	PID     int
	PidfdID string
	Args    []string
	Env     []string
	FDs     map[int]string // of those that came through exec; the runtime's own are close-on-exec
	Block   []int          // which of FDs are sockets without O_NONBLOCK
}

// helperProbe prints its probe.
func helperProbe(args []string) int {
	p := probe{PID: os.Getpid(), Args: os.Args, Env: os.Environ(), FDs: map[int]string{}}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fail(err)
	}
	for _, e := range entries {
		n, _ := strconv.Atoi(e.Name())
		flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		p.FDs[n], _ = os.Readlink("/proc/self/fd/" + e.Name())
		status, _ := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
		if _, err := unix.GetsockoptInt(n, unix.SOL_SOCKET, unix.SO_TYPE); err == nil && status&unix.O_NONBLOCK == 0 {
			p.Block = append(p.Block, n)
		}
	}
	if p.PidfdID, err = pidfdID(); err != nil {
		return fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
		return fail(err)
	}
	return 0
}

// pidfdID returns the id of this process as systemd finds it: in its pidfd's file
// handle, if the kernel gives one (6.14), else in the inode number. It is ""
// without pidfs, and for 32-bit programs, which see half of that number.
func pidfdID() (string, error) {
	if strconv.IntSize < 64 {
		return "", nil
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH); err == nil {
		return strconv.FormatUint(binary.NativeEndian.Uint64(h.Bytes()), 10), nil
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(fd, &fs) != nil || fs.Type != unix.PID_FS_MAGIC {
		return "", nil
	}
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	return strconv.FormatUint(st.Ino, 10), nil
}

// probe runs the job with the probe as its program.
func (j job) probe(t *testing.T, sh string) (p probe) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	j.Config.Env = append(j.Config.Env, "FDTEST_HELPER=probe")
	j.Config.Command = append([]string{exe}, j.Config.Command...)
	out := j.mustRun(t, sh)
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return p
}
