//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// settle gives back the memory that only the start needed: of the heap, and of the
// program, whose pages come back as they are used. A keeper uses few of them.
func settle() {
	debug.FreeOSMemory()
	maps, err := os.ReadFile("/proc/self/maps")
	program, lerr := os.Readlink(ownProgram)
	if err != nil || lerr != nil {
		return
	}
	for line := range bytes.Lines(maps) {
		var from, to uintptr
		var access string
		if _, err := fmt.Sscanf(string(line), "%x-%x %s", &from, &to, &access); err != nil {
			continue
		}
		// What is written to is nobody else's; the rest is in the file.
		if access != "r-xp" && access != "r--p" || !bytes.HasSuffix(bytes.TrimSpace(line), []byte(program)) {
			continue
		}
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
	}
}
