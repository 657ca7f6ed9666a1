package complete_test

import (
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/complete"
	"github.com/spf13/pflag"
)

func TestUnquote(t *testing.T) {
	t.Setenv("HOME", "/home/x")
	for _, c := range []struct{ word, want string }{
		{"", ""},
		{"web", "web"},
		{"~/s", "/home/x/s"},
		{"'~/s'", "~/s"},
		{"~x/s", "~x/s"},
		{`"a b"`, "a b"},
		{`"a b`, "a b"},
		{`'a\b'c`, `a\bc`},
		{`a\ b`, "a b"},
		{`"a\ b\"c"`, `a\ b"c`},
		{`a\`, `a\`},
		{"$(reboot)", "$(reboot)"},
	} {
		if got := complete.Unquote(c.word); got != c.want {
			t.Errorf("%q: %q, want %q", c.word, got, c.want)
		}
	}
}

// TestPrintHostile: a listener's name that has a meaning to a shell does not reach it.
func TestPrintHostile(t *testing.T) {
	a := complete.Answer{Kind: complete.Words, Words: []complete.Word{
		{Text: "web", Help: "tcp\n$(reboot)\t\x1b[2J"}, {Text: "$(reboot)"}, {Text: "a b"}, {Text: "a\nb"}, {Text: "\x1b[2J"}, {Text: "'"}, {Text: ""},
	}}
	var b strings.Builder
	if err := a.Print(&b); err != nil {
		t.Fatal(err)
	}
	if want := "words 0\nweb\ttcp $(reboot)  [2J\n"; b.String() != want {
		t.Errorf("printed %q, want %q", b.String(), want)
	}
}

func TestFlags(t *testing.T) {
	fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.StringArray("bind", nil, "bind `SPEC`")
	fs.String("config", "", "read `FILE`")
	fs.String("level", "", "the `LEVEL`")
	fs.Bool("check", false, "only check")
	fs.String("secret", "", "not shown")
	if err := fs.MarkHidden("secret"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ words, want string }{
		{"|--", "words 0: --bind --config --level --check --help"},
		{"--bind|x|--check|--", "words 0: --bind --config --level --help"},
		{"--config|", "files 0:"},
		{"--config=", "files 9:"},
		{"--level|d", "words 0: debug"},
		{"--level=", "words 8: debug info"},
		{"--check=t", "words 8: true"},
		{"--nope=", "words 0:"},
		{"--bind|", "words 0:"},
		{"--|", "words 0:"},
	} {
		var b strings.Builder
		if err := complete.Flags(&b, fs, strings.Split(strings.TrimPrefix(c.words, "|"), "|"), map[string][]string{"level": {"debug", "info"}}); err != nil {
			t.Fatal(err)
		}
		head, rest, _ := strings.Cut(b.String(), "\n")
		var got strings.Builder
		got.WriteString(head + ":")
		for line := range strings.Lines(rest) {
			word, _, _ := strings.Cut(line, "\t")
			got.WriteString(" " + word)
		}
		if got.String() != c.want {
			t.Errorf("%s: %q, want %q", c.words, got.String(), c.want)
		}
	}
}
