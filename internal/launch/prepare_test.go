package launch_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/launch"
)

func TestEnvironment(t *testing.T) {
	fdtest.CheckLeaks(t)
	pid := "LISTEN_PID=" + strconv.Itoa(os.Getpid())
	ours := []string{"LISTEN_FDS=2", pid, "LISTEN_FDNAMES=web:app"}
	id, err := pidfdID()
	if err != nil {
		t.Fatal(err)
	}
	if id != "" {
		ours = append(ours, "LISTEN_PIDFDID="+id)
	}
	inherited := []string{"LISTEN_PIDFDID=1", "A=1", "LISTEN_FDS=7", "LISTEN_PID=1", "odd", "LISTEN_FDNAMES=x", "LISTEN_MORE=1", "A=2"}
	rest := []string{"A=1", "odd", "LISTEN_MORE=1", "A=2"}
	tests := []struct {
		name string
		c    launch.Config
		want []string
	}{
		{"listen", launch.Config{}, slices.Concat(rest, ours)},
		{"no listen env", launch.Config{NoListenEnv: true}, rest},
		{"setting replaces every inherited one", launch.Config{NoListenEnv: true, Env: []string{"A={fd}=x"}},
			[]string{"odd", "LISTEN_MORE=1", "A=3=x"}},
		{"last setting wins", launch.Config{NoListenEnv: true, Env: []string{"B=1", "C=", "B=2"}},
			append(slices.Clone(rest), "C=", "B=2")},
		{"setting wins over ours", launch.Config{Env: []string{"LISTEN_FDS=1"}},
			slices.Concat(rest, ours[1:], []string{"LISTEN_FDS=1"})},
		{"setting where we set none", launch.Config{NoListenEnv: true, Env: []string{"LISTEN_FDS=1"}},
			append(slices.Clone(rest), "LISTEN_FDS=1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.Sockets, tt.c.Environ, tt.c.Command = fetched[:2], inherited, []string{"/bin/sh"}
			p, err := launch.Prepare(tt.c)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Env(); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"good/srv": 0o755, "plain/srv": 0o644, "plain/only": 0o644, "good/web": 0o755} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir+"/dirs/srv", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir + "/good")
	in := func(dirs ...string) []string {
		for i, d := range dirs {
			if d != "" {
				dirs[i] = dir + "/" + d
			}
		}
		return []string{"X=1", "PATH=" + strings.Join(dirs, ":")}
	}
	tests := []struct {
		name    string
		command string
		environ []string
		path    string // or
		is      error
		text    string // in the error
	}{
		{"found", "srv", in("good"), dir + "/good/srv", nil, ""},
		{"behind one that is not executable", "srv", in("plain", "good"), dir + "/good/srv", nil, ""},
		{"behind a directory", "srv", in("none", "dirs", "good"), dir + "/good/srv", nil, ""},
		{"behind a file that is no directory", "srv", in("plain/srv", "good"), dir + "/good/srv", nil, ""},
		{"in an empty entry", "srv", in("none", ""), "./srv", nil, ""},
		{"placeholder", "{addr:srv}", in("good"), dir + "/good/srv", nil, ""},
		{"no PATH", "sh", nil, "", nil, ""},
		{"path", "./srv", nil, "./srv", nil, ""},
		{"not in PATH", "nope", in("good", "plain"), "", launch.ErrNotFound, `there is no command "nope" in PATH (`},
		{"only one that is not executable", "only", in("plain", "good"), "", launch.ErrNotRunnable, "/plain/only: it is not executable; \"chmod +x\" makes it so"},
		{"only a directory", "srv", in("dirs"), "", launch.ErrNotRunnable, "/dirs/srv: it is a directory"},
		{"no such path", "./nope", nil, "", launch.ErrNotFound, "cannot run ./nope: no such file in " + dir + "/good"},
		{"no such absolute path", "/nope/x", nil, "", launch.ErrNotFound, "cannot run /nope/x: no such file"},
		{"path through a file", "./srv/x", nil, "", launch.ErrNotRunnable, "cannot run ./srv/x: not a directory"},
		{"directory", "../dirs", nil, "", launch.ErrNotRunnable, "cannot run ../dirs: it is a directory"},
		{"device", "/dev/null", nil, "", launch.ErrNotRunnable, "cannot run /dev/null: it is not a regular file"},
		{"not executable", "../plain/srv", nil, "", launch.ErrNotRunnable, "cannot run ../plain/srv: it is not executable"},
	}
	codes := map[error]int{nil: 0, launch.ErrNotFound: 127, launch.ErrNotRunnable: 126}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := launch.Prepare(launch.Config{
				Sockets: []launch.Socket{{Name: "srv", Network: "unix", Address: "srv"}},
				Command: []string{tt.command},
				Environ: tt.environ,
			})
			if !errors.Is(err, tt.is) || launch.ExitCode(err) != codes[tt.is] {
				t.Fatalf("got %v with exit status %d, want %v", err, launch.ExitCode(err), tt.is)
			}
			if err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got  %v\nwant %s", err, tt.text)
			}
			if err == nil && tt.path != "" && p.Path() != tt.path {
				t.Errorf("got %s, want %s", p.Path(), tt.path)
			}
		})
	}
}
