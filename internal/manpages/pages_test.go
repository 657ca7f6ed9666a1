package manpages

import (
	"flag"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write those parts of docs/man that --help has too")

const dir = "../../docs/man/"

// block is a part of a page that is written by the test.
func block(name string) (begin, end string) {
	return `.\" Begin of ` + name + ": go test ./internal/manpages -update\n", `.\" End of ` + name + ".\n"
}

// TestGenerated: pages and --help say the same.
func TestGenerated(t *testing.T) {
	c := readHelp(t)
	for _, g := range []struct{ page, name, want string }{
		{"fdbroker.1", "flags", flagList(c.fdbroker.flags)},
		{"fdclient.1", "synopsis", verbSynopses(c)},
		{"fdclient.1", "verbs", verbSections(c)},
	} {
		text := read(t, g.page)
		begin, end := block(g.name)
		before, rest, ok := strings.Cut(text, begin)
		got, after, ok2 := strings.Cut(rest, end)
		switch {
		case !ok || !ok2:
			t.Errorf("%s has no part between %q and %q", g.page, begin, end)
		case got == g.want:
		case *update:
			if err := os.WriteFile(dir+g.page, []byte(before+begin+g.want+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
		default:
			t.Errorf("docs/man/%s: the %s are not those of --help. To write them anew: go test ./internal/manpages -update\nin the page:\n%s\n--help says:\n%s", g.page, g.name, got, g.want)
		}
	}
}

var (
	exitStatus = regexp.MustCompile(`\b(\d+) (?:fdclient|CMD|done|refused|wrong|stopped|could)`)
	variable   = regexp.MustCompile(`\$([A-Z][A-Z_]+)`)
	path       = regexp.MustCompile(`(?m)(?:^|\s)(/run/[a-z/]+)`)
	optionList = regexp.MustCompile(`(?s)\nOptions of a listener:\n(.*?)\n  with WHO`)
	option     = regexp.MustCompile(`([a-z0-9][a-z0-9-]+)(=\S+)?`)
	network    = regexp.MustCompile(`with NETWORK one of ([a-z0-9 ]+)`)
	item       = regexp.MustCompile(`(?m)^\.It (?:Cm|Ev|Pa|Li) ([^ \n]+)|^\.It (\d+)`)
)

// items are the headings of the lists in a section of a page.
func items(t *testing.T, page, section string) []string {
	t.Helper()
	_, text, ok := strings.Cut(read(t, page), "\n.Sh "+section+"\n")
	if !ok {
		t.Errorf("%s has no section %s", page, section)
	}
	text, _, _ = strings.Cut(text, "\n.Sh ")
	var all []string
	for _, m := range item.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1]+m[2])
	}
	return all
}

func matches(r *regexp.Regexp, text string) []string {
	var all []string
	for _, m := range r.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestSections: exit statuses, variables and files of --help are in the pages.
func TestSections(t *testing.T) {
	c := readHelp(t)
	for page, h := range map[string]help{"fdbroker.1": c.fdbroker, "fdclient.1": c.fdclient} {
		statuses := items(t, page, "EXIT STATUS")
		slices.Sort(statuses)
		if want := matches(exitStatus, h.all); len(want) < 3 || !slices.Equal(slices.Compact(statuses), want) {
			t.Errorf("%s has the exit statuses %q, --help %q", page, statuses, want)
		}
		for section, r := range map[string]*regexp.Regexp{"ENVIRONMENT": variable, "FILES": path} {
			have := items(t, page, section)
			for _, want := range matches(r, h.all) {
				if !slices.Contains(have, want) {
					t.Errorf("%s, %s: %s of --help is not among %q", page, section, want, have)
				}
			}
		}
		for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "SEE ALSO"} {
			if !strings.Contains(read(t, page), "\n.Sh "+section+"\n") {
				t.Errorf("%s has no section %s", page, section)
			}
		}
	}
}

// TestSpec: fdbroker-spec(5) has the networks and options of --help, and no others.
func TestSpec(t *testing.T) {
	h := readHelp(t).fdbroker.all
	list := optionList.FindStringSubmatch(h)
	networks := network.FindStringSubmatch(h)
	if list == nil || networks == nil {
		t.Fatal("--help was not understood")
	}
	var want []string
	for word := range strings.FieldsSeq(list[1]) {
		m := option.FindStringSubmatch(word)
		want = append(want, m[1]+m[2])
	}
	have := items(t, "fdbroker-spec.5", "OPTIONS")
	page := read(t, "fdbroker-spec.5")
	var names []string
	for _, w := range want {
		name, _, valued := strings.Cut(w, "=")
		names = append(names, name)
		if valued != strings.Contains(page, "\n.It Cm "+name+" Ns = Ns Ar ") {
			t.Errorf("--help says %s, the page has its value differently", w)
		}
	}
	slices.Sort(names)
	slices.Sort(have)
	if !slices.Equal(have, names) {
		t.Errorf("the page has the options\n%q, --help\n%q", have, names)
	}
	for name := range strings.FieldsSeq(networks[1]) {
		if !slices.Contains(items(t, "fdbroker-spec.5", "ADDRESSES"), name) {
			t.Errorf("ADDRESSES has no %s", name)
		}
	}
}

// TestLint: mandoc has nothing to say against the pages.
func TestLint(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	}
	for _, page := range []string{"fdbroker.1", "fdclient.1", "fdbroker-spec.5"} {
		if out, err := exec.Command(mandoc, "-Tlint", "-Wwarning", dir+page).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", page, err, out)
		}
	}
}

func read(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(dir + page)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
