//go:build linux

package peer

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

const maxCommand = 200 // bytes of a command line

// StartTime returns when a process started, in clock ticks since boot: field 22 of
// /proc/PID/stat (proc_pid_stat(5)). It is 0 if that cannot be read.
func StartTime(pid int) uint64 { return statField(pid, 22) }

// Parent returns the pid of a process's parent, or 0 if that is not visible.
func Parent(pid int) int { return int(statField(pid, 4)) }

// statField returns a numeric field of /proc/PID/stat, or 0.
func statField(pid, number int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // from field 3 on
	if len(fields) <= number-3 {
		return 0
	}
	n, _ := strconv.ParseUint(string(fields[number-3]), 10, 64)
	return n
}

// Command returns the command line of a process, cut to a bearable length, or its name if
// it has no arguments. Reading it may have to wait for the process.
func Command(pid int) string {
	if pid == 0 {
		return ""
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if b = bytes.TrimRight(b, "\x00"); err == nil && len(b) > 0 {
		b = bytes.ReplaceAll(b[:min(len(b), maxCommand)], []byte{0}, []byte{' '})
		return string(bytes.ToValidUTF8(b, []byte("?")))
	}
	return Name(pid)
}

// Name returns the name that the kernel has for a process, or "". Reading it never waits
// for the process.
func Name(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return string(bytes.ToValidUTF8(bytes.TrimSpace(b), []byte("?")))
}

// Names returns processes as the log shows them, "PID (NAME)".
func Names(pids []int) []string {
	texts := make([]string, len(pids))
	for i, pid := range pids {
		name := Name(pid)
		if name == "" {
			name = "gone since"
		}
		texts[i] = fmt.Sprintf("%d (%s)", pid, name)
	}
	return texts
}
