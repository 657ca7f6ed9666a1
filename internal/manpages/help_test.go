package manpages

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// help is the --help of a command, or of a verb.
type help struct {
	usage string // behind the command's name
	text  string // between that and the flags
	flags []flagHelp
	all   string
}

type flagHelp struct {
	short       string // one letter; empty for most
	name, value string // value is empty for a flag that has none
	optional    string // its value if none is given; empty if it needs one
	usage       string
}

// commands are both commands, and fdclient's verbs.
type commands struct {
	fdbroker, fdclient help
	verbs              []string // in the order of the usage
	verb               map[string]help
	summary            map[string]string
}

func readHelp(t *testing.T) commands {
	t.Helper()
	bin := t.TempDir()
	fdtest.Build(t, bin, "github.com/fdbroker/fdbroker/cmd/fdbroker", "github.com/fdbroker/fdbroker/cmd/fdclient")
	ask := func(args ...string) help {
		out, err := exec.Command(bin+"/"+args[0], append(args[1:], "--help")...).Output()
		if err != nil {
			t.Fatalf("%q --help: %v", args, err)
		}
		return parseHelp(t, args[0], string(out))
	}
	c := commands{fdbroker: ask("fdbroker"), fdclient: ask("fdclient"), verb: make(map[string]help), summary: make(map[string]string)}
	_, list, _ := strings.Cut(c.fdclient.all, "\nVerbs:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.Lines(list) {
		usage, summary, _ := strings.Cut(strings.TrimSpace(line), "  ")
		name, _, _ := strings.Cut(usage, " ")
		c.verbs = append(c.verbs, name)
		c.verb[name], c.summary[name] = ask("fdclient", name), strings.TrimSpace(summary)
	}
	if len(c.verbs) < 7 || len(c.fdbroker.flags) < 10 {
		t.Fatalf("the help was not understood: verbs %q, flags %+v", c.verbs, c.fdbroker.flags)
	}
	return c
}

func parseHelp(t *testing.T, command, all string) help {
	t.Helper()
	h := help{all: all}
	_, rest, ok := strings.Cut(all, "Usage:\n  "+command+" ")
	if !ok {
		t.Fatalf("%s --help has no usage:\n%s", command, all)
	}
	h.usage, rest, _ = strings.Cut(rest, "\n\n")
	text, flags, _ := strings.Cut(rest, "Flags:\n")
	h.text = strings.TrimSpace("\n" + text + "\n")
	flags, _, _ = strings.Cut(flags, "\n\n")
	for line := range strings.Lines(flags) {
		h.flags = append(h.flags, parseFlag(t, strings.TrimRight(line, "\n")))
	}
	return h
}

var flagLine = regexp.MustCompile(`^ +(?:-([a-z]), )?--([a-z0-9-]+)(?: ([^ []+))?(?:\[="?([^]"]*)"?\])? {2,}(.*)$`)

func parseFlag(t *testing.T, line string) flagHelp {
	t.Helper()
	m := flagLine.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("this line of --help was not understood: %q", line)
	}
	return flagHelp{m[1], m[2], m[3], m[4], m[5]}
}
