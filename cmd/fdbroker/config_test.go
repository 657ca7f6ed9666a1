package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestConfigure: what editors make of a configuration file, and what is said about it.
func TestConfigure(t *testing.T) {
	const web, adm = "web=127.0.0.1:9000", "adm=127.0.0.1:9001"
	for _, test := range []struct {
		name, text string
		want       string // the listeners, or an error with FILE for the path
		doubt      server.Doubt
	}{
		{"a file", "# hello\n" + web + "\n\n" + adm + "\n", web + " " + adm, server.Doubt{Last: "adm"}},
		{"CR LF", "# hello\r\n" + web + "\r\n\r\n" + adm + "\r\n", web + " " + adm, server.Doubt{Last: "adm"}},
		{"spaces around it", "\t" + web + " \n", web, server.Doubt{Last: "web"}},
		{"a byte order mark", "\ufeff" + web + "\n", web, server.Doubt{Last: "web"}},
		{"no newline at the end", web + "\n" + adm, web + " " + adm, server.Doubt{Unended: true, Last: "adm"}},
		{"no newline behind a comment", web + "\n# x", web, server.Doubt{Unended: true}},
		{"empty", "", "", server.Doubt{Empty: true}},
		{"only a byte order mark", "\ufeff", "", server.Doubt{Empty: true}},
		{"only comments", "# a\n\n#b\n", "", server.Doubt{Empty: true}},
		{"UTF-16", "\xff\xfew\x00", "FILE is UTF-16: save it as UTF-8", server.Doubt{}},
		{"NUL", web + "\n\x00\x00\x00", "FILE:2: there is a NUL byte: the file is damaged", server.Doubt{}},
		{"NUL in a comment", "#\x00\n" + web, "FILE:1: there is a NUL byte: the file is damaged", server.Doubt{}},
		{"comment behind a spec", web + " # the site\n", `FILE:1: spec "web=127.0.0.1:9000 # the site": a comment must be on a line of its own`, server.Doubt{}},
		{"comment behind a path", "a=unix:///run/a\t#x\n", `FILE:1: spec "a=unix:///run/a\t#x": a comment must be on a line of its own`, server.Doubt{}},
		{"a path with #", "a=unix:///run/a#1\n", "a=unix:///run/a#1", server.Doubt{Last: "a"}},
		{"a name twice", web + "\n" + web + "\n", `FILE:2: the name "web" is given twice, first in FILE:1`, server.Doubt{}},
		{"a name of --bind", "flag=:1\n", `FILE:1: the name "flag" is already given with --bind`, server.Doubt{}},
		{"two errors", "x\n" + web + "\ny\n", `FILE:1: spec "x": ...` + "\n" + `FILE:3: spec "y": ...`, server.Doubt{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			path := t.TempDir() + "/conf"
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			config, err := configure([]string{"flag=:1"}, path)
			if err != nil {
				got := strings.ReplaceAll(err.Error(), path, "FILE")
				if !sameLines(got, test.want) {
					t.Errorf("got %q, want %q", got, test.want)
				}
				return
			}
			got := fmt.Sprint(config.listeners[1:])
			if got != "["+test.want+"]" || *config.doubt != test.doubt {
				t.Errorf("got %s, %+v, want %s, %+v", got, *config.doubt, test.want, test.doubt)
			}
		})
	}
}

// sameLines compares lines of want, each of which may be a beginning and "...".
func sameLines(got, want string) bool {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	if len(g) != len(w) {
		return false
	}
	for i := range g {
		begin, isBegin := strings.CutSuffix(w[i], "...")
		if g[i] != w[i] && !(isBegin && strings.HasPrefix(g[i], begin)) {
			return false
		}
	}
	return true
}

// A writtenFile is a file that changes while it is read.
type writtenFile struct {
	*os.File
	write func()
}

func (f writtenFile) Read(b []byte) (int, error) {
	f.write()
	return f.File.Read(b)
}

// TestConfigBeingWritten: a file that does not stay the same while it is read is not believed.
func TestConfigBeingWritten(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := t.TempDir() + "/conf"
	const text = "web=127.0.0.1:9000\n"
	for name, write := range map[string]func() error{
		"at rest":   func() error { return nil },
		"truncated": func() error { return os.Truncate(path, 0) },
		"longer":    func() error { return os.Truncate(path, 2*int64(len(text))) },
		"rewritten": func() error { return os.WriteFile(path, []byte(strings.ToUpper(text)), 0) },
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		f, err := openConfig(path)
		if err != nil {
			t.Fatal(err)
		}
		_, same, err := readStable(writtenFile{f, func() {
			if err := write(); err != nil {
				t.Error(err)
			}
		}})
		if want := name == "at rest"; same != want || err != nil {
			t.Errorf("%s: got %t, %v, want %t", name, same, err, want)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
