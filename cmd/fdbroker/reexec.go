package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/fdbroker/fdbroker/broker/keeper"
	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/internal/launch"
	"golang.org/x/sys/unix"
)

// ownProgram is the file that this process runs, also when another one has its path.
const ownProgram = "/proc/self/exe"

// Environment variables for the next program in the same process.
const (
	programEnv = "FDBROKER_PROGRAM" // where an upgrade finds the next version
	childEnv   = "FDBROKER_CHILD"   // the pid of the broker that a keeper has started already
	chosenEnv  = "FDBROKER_CHOSEN"  // the store that the program before had, or is to have from now on
)

// self is how this process was started.
type self struct {
	path  string   // where an upgrade finds the next version
	env   []string // without the variables about descriptors
	kept  bool     // a keeper has started it
	store string   // that the program before has chosen; "": this is the first one
}

// findSelf is to be called before anything is taken out of the environment.
func findSelf() self {
	s := self{kept: activation.ByStore(os.Getenv(activation.StoreEnv)), path: os.Getenv(programEnv), store: os.Getenv(chosenEnv)}
	if s.path == "" {
		s.path = findProgram(os.Args[0])
	}
	for _, kv := range os.Environ() {
		key, _, _ := strings.Cut(kv, "=")
		if !activation.IsListenVariable(key) && !slices.Contains([]string{activation.StoreEnv, programEnv, childEnv, chosenEnv}, key) {
			s.env = append(s.env, kv)
		}
	}
	s.env = append(s.env, programEnv+"="+s.path)
	_ = os.Unsetenv(programEnv)
	_ = os.Unsetenv(chosenEnv)
	return s
}

// findProgram returns the path by which this program was started, with its symbolic links,
// because an upgrade may change one of those.
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

// reexec replaces this process by another program, or another run of this one, which
// finds passed open. It returns only an error.
func (s self) reexec(program string, passed []launch.Passed, env ...string) error {
	p := launch.InPlace(program, os.Args, append(slices.Clone(s.env), env...), passed)
	// A signal that arrives before the new program installs its handlers would kill it. Block SIGUSR2 and ignore SIGHUP:
	// the Go runtime preserves only these two across exec. A missed SIGHUP is harmless, because a starting broker reads
	// its configuration anyway.
	p.Held, p.Ignored = syscall.SIGUSR2, syscall.SIGHUP
	return fmt.Errorf("execute %s: %w", program, p.Exec())
}

// execute replaces this process by program, which finds the broker's descriptors and, if the keeper lives, the end of
// the socket pair with it. It returns only an error.
func (d *daemon) execute(program string, end *os.File) error {
	var passed []launch.Passed
	for _, p := range d.broker.Descriptors() {
		passed = append(passed, launch.Passed(p))
	}
	if end == nil {
		return d.self.reexec(program, passed, chosenEnv+"="+cmp.Or(d.chosen, storeKeeper))
	}
	fd, err := dupOf(end)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	_ = fd.Control(func(n uintptr) { _ = unix.Fstat(int(n), &st) })
	isForIt := activation.StoreEnv + "=" + activation.Store(len(passed), st.Ino)
	return d.self.reexec(program, append(passed, launch.Passed{Name: keeper.StoreName, FD: fd}), isForIt)
}

// rename gives the process the program's name, for ps and pgrep. It is "exe" after an exec of a link in /proc.
func (s self) rename() {
	_ = os.WriteFile(fmt.Sprintf("/proc/self/task/%d/comm", os.Getpid()), []byte(filepath.Base(s.path)), 0)
}
