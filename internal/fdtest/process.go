package fdtest

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// HelperEnv is the environment variable that names the helper that a test binary is started as.
const HelperEnv = "FDTEST_HELPER"

// Main runs a package's tests, or, in a process that [Helper] started, the
// helper of that name, whose result is the exit status. Call it from TestMain.
func Main(m *testing.M, helpers map[string]func(args []string) int) {
	name := os.Getenv(HelperEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	helper, ok := helpers[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "fdtest: no helper is called %q\n", name)
		os.Exit(2)
	}
	_ = os.Unsetenv(HelperEnv)
	os.Exit(helper(os.Args[1:]))
}

// Helper returns a command that runs the named helper of this test binary. The
// test's end ends it if it still runs, and waits for it.
func Helper(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	// Without it, each child built with -race lingers for a second at its end.
	cmd.Env = append(os.Environ(), HelperEnv+"="+name, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	t.Cleanup(func() {
		if cmd.Process != nil && cmd.ProcessState == nil {
			Stop(cmd.Process, func() { _ = cmd.Wait() })
		}
	})
	return cmd
}

// Stop ends a process, and waits for it by wait. It is told to end first: a keeper that
// is killed is survived by its broker.
func Stop(p *os.Process, wait func()) {
	_ = p.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(patience/4, func() { _ = p.Kill() })
	defer kill.Stop()
	wait()
}

// ProgramsEnv is the environment variable that names a directory of programs that were built before, each in the
// directory of its import path: for machines without a compiler, such as those of .ci/kernels.
const ProgramsEnv = "FDTEST_PROGRAMS"

// Build builds the commands of these import paths into dir, under their own names.
func Build(t testing.TB, dir string, packages ...string) {
	t.Helper()
	if err := Programs(dir, packages...); err != nil {
		t.Fatal(err)
	}
}

// Programs is Build for TestMain.
func Programs(dir string, packages ...string) error {
	if built := os.Getenv(ProgramsEnv); built != "" {
		for _, p := range packages {
			if err := copyProgram(filepath.Join(dir, path.Base(p)), filepath.Join(built, p, path.Base(p))); err != nil {
				return err
			}
		}
		return nil
	}
	cmd := exec.Command("go", append([]string{"build", "-o", dir + "/"}, packages...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// copyProgram makes a file of its own: a program finds out by the file whether another is the same as itself.
func copyProgram(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}
