// Package procfs reads what /proc shows of other processes (proc(5)). It only reads, never blocks on another process,
// and never decides: everything it returns may be out of date, and a process chooses its own command line and name.
package procfs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
)

const (
	maxCommand   = 200 // bytes of a command line
	maxAncestors = 64
)

// Command returns the command line of a process, cut to 200 bytes; if it has no arguments, its name. It is empty if the
// process has ended, or pid is 0.
func Command(pid int) string {
	if pid == 0 {
		return ""
	}
	if b := bytes.TrimRight(read(pid, "cmdline"), "\x00"); len(b) > 0 {
		b = bytes.ReplaceAll(b[:min(len(b), maxCommand)], []byte{0}, []byte{' '})
		return string(bytes.ToValidUTF8(b, []byte("?")))
	}
	return comm(pid)
}

// Name returns the name of a process as ps -o comm shows it, or "gone since". Reading it never waits for the process.
func Name(pid int) string {
	if name := comm(pid); name != "" {
		return name
	}
	return "gone since"
}

func comm(pid int) string {
	return string(bytes.ToValidUTF8(bytes.TrimSpace(read(pid, "comm")), []byte("?")))
}

// Parent returns the parent of a process, or 0 if that cannot be seen.
func Parent(pid int) int {
	parent, _ := strconv.Atoi(stat(pid, 4))
	return parent
}

// HidesDescriptors reports whether the descriptors of a process that lives cannot be looked at.
func HidesDescriptors(pid int) bool {
	return errors.Is(DescriptorsError(pid), fs.ErrPermission)
}

// DescriptorsError returns why the descriptors of a process cannot be looked at; nil if they can.
func DescriptorsError(pid int) error {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/fd")
	if err == nil {
		_ = f.Close()
	}
	return err
}

// Descends reports whether a process was started by ancestor, or by one that was, as far as /proc shows its parents.
func Descends(pid, ancestor int) bool {
	for range maxAncestors {
		if pid = Parent(pid); pid <= 1 || pid == ancestor {
			return pid == ancestor && pid > 0
		}
	}
	return false
}

// StartTime returns when a process started, in clock ticks since boot, or 0 if that cannot be read.
func StartTime(pid int) uint64 {
	start, _ := strconv.ParseUint(stat(pid, 22), 10, 64)
	return start
}

// stat returns a field of /proc/PID/stat by its number in proc_pid_stat(5), from 3 on. The name in front of them may
// hold anything, so the fields are counted behind it.
func stat(pid, number int) string {
	b := read(pid, "stat")
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) <= number-3 {
		return ""
	}
	return string(fields[number-3])
}

// read returns nil if the file cannot be read.
func read(pid int, file string) []byte {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + file)
	return b
}
