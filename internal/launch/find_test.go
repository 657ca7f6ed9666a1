package launch_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/launch"
)

// TestDirect: the file that is executed for a command, and the errors before that.
func TestDirect(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"script": "#!/bin/sh -e\n", "text": "exit 0\n", "program": "\x7fELF\x02", "binary": "\x00", "empty": "",
		"lost": "#! /no/such/sh -e\n", "dos": "#!/bin/sh\r\n", "plain": "#!/etc/passwd", "bare": "#!\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		want string // the file that is executed, or the end of the error
		code int
	}{
		{"script", "script", 0},
		{"text", "/bin/sh", 0},
		{"program", "program", 0},
		{"binary", "binary", 0},
		{"empty", "empty", 0},
		{"bare", "bare", 0},
		{"lost", `/lost: the interpreter that its first line names, "/no/such/sh", does not exist`, 126},
		{"dos", "the line ends in CR LF, and the CR counts as part of it", 126},
		{"plain", `cannot run /etc/passwd: it is not executable; "chmod +x" makes it so, unless its file system is mounted noexec`, 126},
		{"none", "/none: no such file", 127},
	} {
		path, argv, err := launch.Direct([]string{filepath.Join(dir, c.name), "a b"}, nil)
		switch {
		case launch.ExitCode(err) != c.code:
			t.Errorf("%s: %v", c.name, err)
		case err != nil:
			if !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
		case filepath.Base(path) != filepath.Base(c.want) || !slices.Equal(argv[len(argv)-2:], []string{filepath.Join(dir, c.name), "a b"}):
			t.Errorf("%s: %s, %q", c.name, path, argv)
		}
	}
	if _, _, err := launch.Direct([]string{""}, nil); err == nil || errors.Is(err, launch.ErrNotFound) {
		t.Errorf("no command: %v", err)
	}
}

// TestDirectAgain: the file of a command may become something else.
func TestDirectAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	const text = "echo text $0 $1 \"$2\"\n"
	write(text)
	path, argv, err := launch.Direct([]string{file, "-c", "echo  program"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ text, want string }{
		{text, "text " + file + " -c echo  program\n"},
		{"#!/bin/sh -e\necho script $1\n", "script -c\n"},
		{string(program), "program\n"},
		{text, "text " + file + " -c echo  program\n"},
	} {
		write(c.text)
		out, err := (&exec.Cmd{Path: path, Args: argv}).Output()
		if err != nil || string(out) != c.want {
			t.Errorf("%.20q: got %q, %v, want %q", c.text, out, err, c.want)
		}
	}
}
