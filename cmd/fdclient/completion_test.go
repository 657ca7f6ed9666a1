package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// completing is the rig of the tests of the shells: both commands in PATH, a broker
// with some names at $FDBROKER_SOCKET, another at "other", and a file to be found.
type completing struct{ bin, dir, other string }

func newCompleting(t *testing.T) completing {
	t.Helper()
	c := completing{bin: t.TempDir(), dir: fdtest.SocketDir(t)}
	c.other = c.dir + "/other"
	fdtest.Build(t, c.bin, "github.com/fdbroker/fdbroker/cmd/fdbroker", "github.com/fdbroker/fdbroker/cmd/fdclient")
	t.Setenv("PATH", c.bin+":"+os.Getenv("PATH"))
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	t.Setenv("HOME", c.dir)
	t.Setenv("FDBROKER_SOCKET", c.other)
	startBroker(t, "fdbroker", "--bind", "elsewhere=127.0.0.1:0")
	t.Setenv("FDBROKER_SOCKET", c.dir+"/control")
	startBroker(t, "fdbroker", "--bind", "web-main=127.0.0.1:0", "--bind", "web-tls=127.0.0.1:0", "--bind", "adm=127.0.0.1:0")
	if err := os.WriteFile(c.dir+"/findme.conf", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func startBroker(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fdtest.Stop(cmd.Process, func() { _ = cmd.Wait() })
	})
	fdtest.Eventually(t, "the broker answers", func() bool { return exec.Command("fdclient", "ping").Run() == nil })
}

// shell finds a shell; in CI it has to be installed.
func shell(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatalf("%s is not installed", name)
	case err != nil:
		t.Skipf("%s is not installed", name)
	}
	return path
}

// completions are lines before and after Tab is pressed, in every shell. DIR is a directory with
// the file findme.conf.
var completions = []struct{ name, typed, want string }{
	{"verb", "fdclient unb", "fdclient unbind "},
	{"verb behind a flag", "fdclient --socket x unb", "fdclient --socket x unbind "},
	{"verb of help", "fdclient help comp", "fdclient help completion "},
	{"flag before the verb", "fdclient --vers", "fdclient --version "},
	{"flag of a verb", "fdclient get --no-l", "fdclient get --no-listen-env "},
	{"flag of another", "fdclient list --js", "fdclient list --json "},
	{"name behind a short flag", "fdclient run -n 2 ad", "fdclient run -n 2 adm "},
	{"value of a verb's flag", "fdclient get --blocking=fa", "fdclient get --blocking=false "},
	{"log level of run", "fdclient run --log-level=disa", "fdclient run --log-level=disabled "},
	{"log format of run", "fdclient run --log-format js", "fdclient run --log-format json "},
	{"shell", "fdclient completion fi", "fdclient completion fish "},
	{"name", "fdclient addr a", "fdclient addr adm "},
	{"name for unbind", "fdclient unbind web-t", "fdclient unbind web-tls "},
	{"what names have in common", "fdclient get we", "fdclient get web-"},
	{"no name twice", "fdclient get web-tls web", "fdclient get web-tls web-main "},
	{"name of another broker", "fdclient addr --socket DIR/other e", "fdclient addr --socket DIR/other elsewhere "},
	{"name of another broker, with =", "fdclient --socket=DIR/other addr e", "fdclient --socket=DIR/other addr elsewhere "},
	{"no broker", "fdclient addr --socket DIR/none e", "fdclient addr --socket DIR/none e"},
	{"file", "fdclient list --socket DIR/fin", "fdclient list --socket DIR/findme.conf "},
	{"file behind =", "fdclient list --socket=DIR/fin", "fdclient list --socket=DIR/findme.conf "},
	{"command", "fdclient get adm -- fdbrok", "fdclient get adm -- fdbroker "},
	{"argument of the command", "fdclient get adm -- cat DIR/fin", "fdclient get adm -- cat DIR/findme.conf "},
	{"the command's own completion", "fdclient get --env X=a:b adm -- fdclient unb", "fdclient get --env X=a:b adm -- fdclient unbind "},
	{"fdbroker's flag", "fdbroker --max-names-", "fdbroker --max-names-per-call "},
	{"fdbroker's file", "fdbroker --bind web=:9000 --config DIR/fin", "fdbroker --bind web=:9000 --config DIR/findme.conf "},
	{"fdbroker's value", "fdbroker --log-level=disa", "fdbroker --log-level=disabled "},
	{"fdbroker's value behind a space", "fdbroker --log-format js", "fdbroker --log-format json "},
	{"group", "fdbroker --socket-group=root", "fdbroker --socket-group=root "},
}

// TestBash presses Tab in a bash with the package bash-completion.
func TestBash(t *testing.T) {
	path := shell(t, "bash")
	const library = "/usr/share/bash-completion/bash_completion"
	switch _, err := os.Stat(library); {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	}
	c := newCompleting(t)
	c.press(t, exec.Command(path, "--norc", "-i"), `source `+library+`; source <(fdclient completion bash)
tell() { printf '%s\n' "$READLINE_LINE" >>$TOLD; }; bind -x '"\C-g": tell'; printf '\n' >>$TOLD
`)
}

// TestZsh presses Tab in a zsh that has read the script, and in a zsh that finds it by itself.
func TestZsh(t *testing.T) {
	path := shell(t, "zsh")
	c := newCompleting(t)
	for name, setup := range map[string]string{
		"read":  `autoload -Uz compinit && compinit -D -u; source <(fdclient completion zsh)`,
		"found": `mkdir f && fdclient completion zsh >f/_fdclient && fpath=($PWD/f $fpath) && autoload -Uz compinit && compinit -D -u`,
	} {
		t.Run(name, func(t *testing.T) {
			c.press(t, exec.Command(path, "-f", "-i"), setup+`
tell() { print -r -- "$BUFFER" >>$TOLD }; zle -N tell; bindkey '^G' tell; bindkey '^U' kill-whole-line; print >>$TOLD
`)
		})
	}
}

// press types each line and Tab into an interactive shell.
func (c completing) press(t *testing.T, cmd *exec.Cmd, setup string) {
	t.Helper()
	told := filepath.Join(t.TempDir(), "told")
	if err := os.WriteFile(told, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	keys, tty := fdtest.Keyboard(t)
	var shown bytes.Buffer
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		_, _ = shown.ReadFrom(keys) // until it is closed
	}()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.Env = append(os.Environ(), "TOLD="+told, "TERM=dumb", "INPUTRC=/dev/null")
	cmd.Dir = t.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = keys.Close()
		<-reader
		if t.Failed() {
			t.Logf("the terminal showed:\n%q", shown.String())
		}
	})
	lines := func() []string {
		text, err := os.ReadFile(told)
		if err != nil {
			t.Fatal(err)
		}
		return strings.SplitAfter(string(text), "\n")
	}
	// press returns the last line that the shell has written.
	n := 0
	press := func(text string) string {
		n++
		if _, err := keys.WriteString(text); err != nil {
			t.Fatal(err)
		}
		fdtest.Eventually(t, "the shell tells its line", func() bool { return len(lines()) > n })
		return strings.TrimSuffix(lines()[n-1], "\n")
	}
	press(setup)
	for _, test := range completions {
		typed, want := strings.ReplaceAll(test.typed, "DIR", c.dir), strings.ReplaceAll(test.want, "DIR", c.dir)
		if got := press("\x15" + typed + "\t\a"); got != want {
			t.Errorf("%s: %q became %q, want %q", test.name, typed, got, want)
		}
	}
}

// TestFish asks fish for its completions.
func TestFish(t *testing.T) {
	path := shell(t, "fish")
	c := newCompleting(t)
	var script strings.Builder
	script.WriteString("set -g fish_complete_path\nfdclient completion fish | source\n")
	for _, test := range completions {
		typed := strings.ReplaceAll(test.typed, "DIR", c.dir)
		script.WriteString("complete -C '" + typed + "'\necho =\n")
	}
	cmd := exec.Command(path, "--no-config", "-c", script.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(out), "=\n")
	for i, test := range completions {
		typed, want := strings.ReplaceAll(test.typed, "DIR", c.dir), strings.ReplaceAll(test.want, "DIR", c.dir)
		var words []string
		for line := range strings.Lines(parts[i]) {
			word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			words = append(words, word)
		}
		last := typed[strings.LastIndexByte(typed, ' ')+1:]
		become := typed
		switch {
		case len(words) == 1:
			become = strings.TrimSuffix(typed, last) + words[0] + " "
		case len(words) > 1:
			become = strings.TrimSuffix(typed, last) + common(words)
		}
		if become != want {
			t.Errorf("%s: %q has the completions %q: it becomes %q, want %q", test.name, typed, words, become, want)
		}
	}
}

// common returns the longest prefix of all words.
func common(words []string) string {
	first, last := slices.Min(words), slices.Max(words)
	n := 0
	for n < len(first) && n < len(last) && first[n] == last[n] {
		n++
	}
	return first[:n]
}

// TestBashWords calls the function of bash as bash does, without bash-completion, and
// with words that are split at fewer bytes than usual.
func TestBashWords(t *testing.T) {
	path := shell(t, "bash")
	c := newCompleting(t)
	var all []string
	for _, w := range verbNames("help").Words {
		all = append(all, w.Text)
	}
	for _, test := range []struct{ name, setup, want string }{
		{"verbs", `COMP_WORDS=(fdclient "") COMP_CWORD=1`, strings.Join(all, " ")},
		{"names", `COMP_WORDS=(fdclient get "") COMP_CWORD=2`, "adm web-main web-tls"},
		{"flags", `COMP_WORDS=(fdclient get --no) COMP_CWORD=2`, "--no-listen-env"},
		{"split at =", `COMP_WORDS=(fdbroker --log-level = d) COMP_CWORD=3 COMP_LINE="fdbroker --log-level=d" COMP_POINT=22`, "debug disabled"},
		{"split behind =", `COMP_WORDS=(fdbroker --log-format =) COMP_CWORD=2 COMP_LINE="fdbroker --log-format=" COMP_POINT=22`, "console json auto"},
		{"not split at =", `COMP_WORDS=(fdbroker --log-level=d) COMP_CWORD=1 COMP_LINE="fdbroker --log-level=d" COMP_POINT=22`, "--log-level=debug --log-level=disabled"},
		{"in the middle of a word", `COMP_WORDS=(fdclient unbxx) COMP_CWORD=1 COMP_LINE="fdclient unbxx" COMP_POINT=12`, "unbind"},
		{"command", `COMP_WORDS=(fdclient get adm -- fdbrok) COMP_CWORD=4`, "fdbroker"},
		{"file", `COMP_WORDS=(fdclient get adm -- cat "` + c.dir + `/find") COMP_CWORD=5`, c.dir + "/findme.conf"},
	} {
		cmd := exec.Command(path, "--norc", "-c", `source <(fdclient completion bash); `+test.setup+`
_fdclient_complete "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}"; echo "${COMPREPLY[*]}"`)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if got := strings.TrimSuffix(string(out), "\n"); err != nil || got != test.want {
			t.Errorf("%s: completions %q, %v; want %q", test.name, got, err, test.want)
		}
	}
}
