package realservers

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the table of docs/servers.md")

const (
	docsFile = "../../docs/servers.md"
	begin    = "<!-- Written by: go test ./internal/realservers -run TestDocs -update -->\n"
	end      = "<!-- End of what is written by the test. -->\n"
)

// TestDocs: docs/servers.md shows what the other tests run.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	shown, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no part between %q and %q", docsFile, begin, end)
	}
	want := document(t)
	if shown == want {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the rows here say; got:\n%s\nwant:\n%s\nTo write it anew: go test ./internal/realservers -run TestDocs -update", docsFile, shown, want)
	}
	if err := os.WriteFile(docsFile, []byte(before+begin+want+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// document returns the rows as Markdown: the table, then what each one needs.
func document(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("\n| server | line | graceful stop | `O_NONBLOCK` | queue limit it sets | shuts it down | lost in restarts |\n")
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, r := range rows {
		limit, lost := "leaves it", "none"
		if r.backlog != 0 {
			limit = fmt.Sprint(r.backlog)
		}
		if r.mayDrop {
			lost = "a few"
		}
		fmt.Fprintf(&b, "| [%s](#%s) | `%s` | %s | %s | %s | no | %s |\n",
			r.name, anchor(r.name), r.line, unix.SignalName(r.stop), r.nonblock, limit, lost)
	}
	for _, r := range rows {
		fmt.Fprintf(&b, "\n### %s\n\n", r.name)
		if r.packages != "" {
			fmt.Fprintf(&b, "Debian: `apt-get install %s`. ", r.packages)
		}
		fmt.Fprintf(&b, "%s\n", r.notes)
		for _, name := range r.files {
			text, err := os.ReadFile(filepath.Join("testdata", r.dir, name))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "\n`%s`:\n\n```%s\n%s```\n", name, languages[filepath.Ext(name)], text)
		}
	}
	b.WriteString("\n")
	return b.String()
}

var languages = map[string]string{
	".py": "python", ".js": "javascript", ".php": "php", ".go": "go", ".conf": "", ".cfg": "",
}

// anchor is what a heading is linked by.
func anchor(heading string) string {
	return strings.NewReplacer(" ", "-", ",", "").Replace(strings.ToLower(heading))
}
