package launch_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/scmrights"
)

func TestExecFailures(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	elf, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	busy, err := os.Create(filepath.Join(dir, "busy"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if err := busy.Chmod(0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		command []string
		code    int
		text    string // in the message, after the file's name
	}{
		{"own status", []string{"/bin/sh", "-c", "exit 7"}, 7, ""},
		{"no interpreter", []string{file("script", "#!/no/such/sh -e\n")}, 126,
			`/script: the interpreter that its first line names, "/no/such/sh", does not exist`},
		{"CR LF", []string{file("dos", "#! /bin/sh\r\nexit 0\r\n")}, 126,
			`/dos: the interpreter that its first line names, "/bin/sh\r", does not exist; the line ends in CR LF, and the CR counts as part of it`},
		{"interpreter not executable", []string{file("plain", "#!/etc/passwd\n")}, 126,
			"/plain: permission denied, for it or for the interpreter that it names, or its file system is mounted noexec"},
		{"no loader", []string{file("elf", strings.Replace(string(elf), "/lib64/ld-", "/libXX/ld-", 1))}, 126,
			"/elf: the loader that it was built for does not exist; it belongs to another system or C library"},
		{"another machine", []string{file("alien", "\x7fELF\x01\x02\x00\x00\n")}, 126,
			"/alien: its format is not one that this machine runs"},
		{"busy", []string{busy.Name()}, 126, "/busy: it is being written to"},
		{"too long", []string{"/bin/sh", "-c", strings.Repeat("{addr}", 15_000)}, 126,
			"cannot run /bin/sh: its words and environment are too long together, or one of them is (execve(2)); pass fewer, or use a file"},
		{"not found", []string{dir + "/none"}, 127, "/none: no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := job{Names: []string{"web"}, Config: launch.Config{Command: tt.command}}
			_, stderr, code := j.run(t, "")
			if code != tt.code {
				t.Errorf("exit status: got %d, want %d", code, tt.code)
			}
			if tt.text == "" && stderr != "" || !strings.HasSuffix(strings.TrimSuffix(stderr, "\n"), tt.text) {
				t.Errorf("message:\ngot  %s\nwant %s", stderr, tt.text)
			}
		})
	}
}

// TestExecShell runs a file without "#!", as execvp does.
func TestExecShell(t *testing.T) {
	fdtest.CheckLeaks(t)
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("echo $0 $1 $LISTEN_FDS\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	j := job{Names: []string{"web"}, Config: launch.Config{Command: []string{script, "{fd}"}}}
	if got, want := j.mustRun(t, ""), script+" 3 1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestExecManySockets places about as many sockets as there may be open files, as a broker
// that replaces itself may have to. Each is at the number of another one.
func TestExecManySockets(t *testing.T) {
	fdtest.CheckLeaks(t)
	const n = 300
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, shift := range []int{1, n - 1} {
		j := job{Config: launch.Config{Command: []string{"/bin/sh", "-c", "test -c /dev/fd/302 && echo $LISTEN_FDS"}}}
		for i := range n {
			j.Names = append(j.Names, fmt.Sprint("s", i))
			j.At = append(j.At, 3+(i+shift)%n)
		}
		cmd := j.start(t)
		cmd.ExtraFiles = slices.Repeat([]*os.File{null}, n)
		through(cmd, `ulimit -n 320; exec "$@"`)
		if out, err := cmd.Output(); err != nil || string(out) != "300\n" {
			t.Errorf("moved by %d: %v: %s", shift, err, out)
		}
	}
}

// TestExecFewFiles leaves too few descriptors to move the sockets.
func TestExecFewFiles(t *testing.T) {
	fdtest.CheckLeaks(t)
	j := job{Config: launch.Config{Command: []string{"true"}}, Turn: true}
	for range 8 {
		j.Names = append(j.Names, "web")
	}
	_, stderr, code := j.run(t, `ulimit -n 14; exec "$@"`)
	const want = "place 8 sockets: fcntl: too many open files: this process may open 14 files; raise the limit (ulimit -n, LimitNOFILE=)\n"
	if code != 125 || !strings.HasPrefix(stderr, want) { // with -cover, its runtime complains as well
		t.Errorf("exit status %d: %s", code, stderr)
	}
}

// TestExecClosed has a socket that its owner closed already.
func TestExecClosed(t *testing.T) {
	fdtest.CheckLeaks(t)
	j := job{Names: []string{"web"}, Config: launch.Config{Command: []string{"true"}}, Close: true}
	if _, stderr, code := j.run(t, ""); code != 125 || stderr != "place socket 1: file already closed\n" {
		t.Errorf("exit status %d: %s", code, stderr)
	}
}

// TestExecReturns fails to exec a process, which must go on unharmed. It is a
// helper: go test has given this one a descriptor that the testing package writes to
// when a file is opened, at the number of one of the sockets.
func TestExecReturns(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/no/such/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := fdtest.Helper(t, "return", script)
	if out, err := cmd.Output(); err != nil || string(out) != "unharmed\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

// helperReturn fails to exec the script args[0] again and again.
func helperReturn(args []string) int {
	if err := failToExec(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("unharmed")
	return 0
}

func failToExec(script string) error {
	n, err := listen(0)
	if err != nil {
		return err
	}
	fd := scmrights.NewFD(n)
	defer fd.Close()
	p, err := launch.Prepare(launch.Config{
		Sockets: slices.Repeat([]launch.Socket{{Name: "web", FD: fd}}, 16), // at the runtime's numbers
		Command: []string{script},
	})
	if err != nil {
		return err
	}
	if err := useThePoller(); err != nil {
		return err
	}
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for range 20 {
		if err := p.Exec(); !errors.Is(err, launch.ErrNotRunnable) || !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("got %w, want that the interpreter does not exist", err)
		}
		if err := useThePoller(); err != nil {
			return err
		}
	}
	if after, err := os.ReadDir("/proc/self/fd"); err != nil || len(after) != len(before) {
		return fmt.Errorf("open descriptors: %v before, %v after, %w", before, after, err)
	}
	return nil
}

// useThePoller waits for a pipe in the runtime's poller.
func useThePoller() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	go func() { _, _ = w.WriteString("x") }()
	_, err = r.Read(make([]byte, 1))
	return err
}
