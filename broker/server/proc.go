//go:build linux

package server

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const maxCommand = 200 // bytes of a command line that List shows

// hasPidfs reports whether each pidfd has an inode of its own (Linux 6.9).
func hasPidfs() bool {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Type == unix.PID_FS_MAGIC
}

// startTime returns when a process started, in clock ticks since boot: field 22
// of /proc/PID/stat (proc_pid_stat(5)). It is 0 where that cannot be read.
func startTime(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // from field 3 on
	if len(fields) < 20 {
		return 0
	}
	n, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// command returns the command line of a process, cut to a bearable length, or
// the name that the kernel has for it where it has no arguments.
func command(pid int) string {
	if pid == 0 {
		return ""
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if b = bytes.TrimRight(b, "\x00"); err == nil && len(b) > 0 {
		b = bytes.ReplaceAll(b[:min(len(b), maxCommand)], []byte{0}, []byte{' '})
		return string(bytes.ToValidUTF8(b, []byte("?")))
	}
	b, err = os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return string(bytes.ToValidUTF8(bytes.TrimSpace(b), []byte("?")))
}

// peerGroups returns the supplementary groups of a socket's peer.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && int(size/4) > len(groups): // size says how much it takes
			groups = make([]uint32, size/4)
		default:
			return nil, os.NewSyscallError("getsockopt", errno)
		}
	}
}

// commands returns processes as a log shows them, with the names that the kernel has
// for them: those can be read without waiting for the processes.
func commands(pids []int) []string {
	texts := make([]string, len(pids))
	for i, pid := range pids {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			name = []byte("gone since")
		}
		texts[i] = fmt.Sprintf("%d (%s)", pid, bytes.ToValidUTF8(bytes.TrimSpace(name), []byte("?")))
	}
	return texts
}
