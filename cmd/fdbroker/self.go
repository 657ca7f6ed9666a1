//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/internal/launch"
)

// ownProgram is the file that this process runs, also when another one has its path.
const ownProgram = "/proc/self/exe"

// The environment by which keeper, broker and their successors in the same process know
// each other.
const (
	programEnv = "FDBROKER_PROGRAM" // where the program was found that is to be upgraded
	childEnv   = "FDBROKER_CHILD"   // the pid of the broker that a keeper has started already
)

// self is how this process was started, before anything was taken out of it.
type self struct {
	path string   // where the next version of the program will be
	env  []string // less what speaks of descriptors
	kept bool     // a keeper has started it
}

func findSelf() self {
	s := self{kept: activation.ByStore(os.Getenv(activation.StoreEnv)), path: os.Getenv(programEnv)}
	if s.path == "" {
		s.path = findProgram(os.Args[0])
	}
	for _, kv := range os.Environ() {
		key, _, _ := strings.Cut(kv, "=")
		if !slices.Contains([]string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES", activation.StoreEnv, programEnv, childEnv}, key) {
			s.env = append(s.env, kv)
		}
	}
	s.env = append(s.env, programEnv+"="+s.path)
	_ = os.Unsetenv(programEnv)
	return s
}

// findProgram returns the path by which this program was started. Where a symbolic link
// is part of it, that is what an upgrade changes.
func findProgram(argv0 string) string {
	path, err := exec.LookPath(argv0)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	is, ierr := os.Stat(ownProgram)
	if err == nil && ierr == nil {
		if at, err := os.Stat(path); err == nil && os.SameFile(is, at) {
			return path
		}
	}
	path, _ = os.Executable()
	return strings.TrimSuffix(path, " (deleted)")
}

// become replaces this process by another program, or another run of this one, which
// finds passed open. It returns only an error.
func (s self) become(program string, passed []launch.Passed, env ...string) error {
	p := launch.InPlace(program, os.Args, append(slices.Clone(s.env), env...), passed)
	// One that comes while there is no handler for it would end this process. Of these, Go
	// leaves but SIGUSR2 blocked, and but SIGHUP ignored. What that asks for, to read the
	// configuration, a broker that begins does.
	p.Hold(syscall.SIGUSR2)
	p.Ignore(syscall.SIGHUP)
	return fmt.Errorf("execute %s: %w", program, p.Exec())
}

// rename gives the process the name that ps and pgrep know it by, which is that of the
// file it was executed from: "exe" where that was a link in /proc.
func (s self) rename() {
	_ = os.WriteFile(fmt.Sprintf("/proc/self/task/%d/comm", os.Getpid()), []byte(filepath.Base(s.path)), 0)
}
