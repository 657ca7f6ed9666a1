//go:build linux

package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// plainRig is a broker with two listeners, and both commands as they are installed.
type plainRig struct {
	dir string // of the commands, the control socket "s", and the broker's "log"
}

func newPlainRig(t *testing.T, args ...string) *plainRig {
	t.Helper()
	r := &plainRig{dir: fdtest.SocketDir(t)}
	fdtest.Build(t, r.dir, "github.com/fdbroker/fdbroker/cmd/fdbroker", "github.com/fdbroker/fdbroker/cmd/fdclient")
	b := exec.Command(filepath.Join(r.dir, "fdbroker"), append([]string{"--socket", r.dir + "/s", "--store", "none",
		"--bind", "web=127.0.0.1:0", "--bind", "adm=127.0.0.1:0", "--log-format", "json"}, args...)...)
	log, err := os.Create(filepath.Join(r.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	b.Stderr = log
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fdtest.Stop(b.Process, func() { _ = b.Wait() }) })
	fdtest.Eventually(t, "the broker answers", func() bool {
		c := broker.Client{Socket: r.dir + "/s"}
		defer c.Close()
		_, err := c.Info(context.Background())
		return err == nil
	})
	return r
}

// logged returns how often the broker has logged a text.
func (r *plainRig) logged(t *testing.T, text string) int {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(r.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(log), text)
}

// sh runs a script, in which fdclient is in PATH, and returns what it prints, and the
// packages that fdclient has initialized.
func (r *plainRig) sh(t *testing.T, script, stdin string) (stdout, stderr string, initialized []string) {
	t.Helper()
	c := exec.Command("sh", "-c", script)
	c.Dir = r.dir
	c.Env = append(os.Environ(), "PATH="+r.dir+":"+os.Getenv("PATH"), "FDBROKER_SOCKET="+r.dir+"/s", "GODEBUG=inittrace=1")
	var out, errs strings.Builder
	c.Stdout, c.Stderr = &out, &errs
	if stdin != "" {
		f, err := os.OpenFile(stdin, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c.Stdin = f
	}
	_ = c.Run() // the scripts print what matters
	var said []string
	for line := range strings.Lines(errs.String()) {
		if rest, ok := strings.CutPrefix(line, "init "); ok {
			name, _, _ := strings.Cut(rest, " ")
			initialized = append(initialized, name)
			continue
		}
		said = append(said, line)
	}
	return out.String(), strings.Join(said, ""), initialized
}

// TestPlainGet: the plain form becomes its command before net is initialized, which the
// others do not, and both find the same.
func TestPlainGet(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newPlainRig(t)
	const show = ` sh -c 'echo $LISTEN_FDS $LISTEN_FDNAMES $((LISTEN_PID - $$)); exec ls -l /proc/self/fd'`
	const want = "2 web:adm 0; 0 /dev/null 1 pipe 2 pipe 3 socket 4 socket 5 /dev/null 6 /proc 7 /dev/null"
	link := regexp.MustCompile(` (\d) -> (/?[a-z]+(?:/null)?)`) // what has two digits is the test's
	for _, test := range []struct {
		name, line string
		quick      bool
	}{
		{"plain", "fdclient get web adm --" + show, true},
		{"socket", "fdclient --socket $PWD/s get web adm --" + show, true},
		{"flag", "fdclient get --blocking=false web adm --" + show, false},
		{"environment", "export FDBROKER_X=1; fdclient get web adm --" + show, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			// What is inherited at 3 and 4 gives way, and the rest stays.
			out, said, initialized := r.sh(t, "exec 3</dev/null 4</dev/null 5</dev/null 7</dev/null; "+test.line, "")
			got, list, _ := strings.Cut(out, "\n")
			got += ";"
			for _, m := range link.FindAllStringSubmatch(list, -1) {
				got += " " + m[1] + " " + m[2]
			}
			if got != want || said != "" {
				t.Errorf("got\n%s\n%s\nwant\n%s", got, said, want)
			}
			quick := true
			for _, name := range initialized {
				quick = quick && name != "net" && name != "github.com/spf13/pflag"
			}
			if quick != test.quick || len(initialized) == 0 {
				t.Errorf("initialized: %v", initialized)
			}
		})
	}
}

// TestBuiltForPlainGet: before main the runtime leaves alone the numbers where sockets go.
func TestBuiltForPlainGet(t *testing.T) {
	dir := t.TempDir()
	fdtest.Build(t, dir, "github.com/fdbroker/fdbroker/cmd/fdclient")
	info, err := buildinfo.ReadFile(filepath.Join(dir, "fdclient"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Settings {
		if s.Key == "DefaultGODEBUG" && strings.Contains(s.Value, "containermaxprocs=0") && strings.Contains(s.Value, "updatemaxprocs=0") {
			return
		}
	}
	t.Errorf("built with %v", info.Settings)
}

// TestPlainGetBusy: the runtime may have descriptors where sockets go, or come to have
// some at any moment. Once in ten or a hundred times it broke where that was not minded.
func TestPlainGetBusy(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newPlainRig(t)
	fifo := r.dir + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, setting string
		stdin         string // a non-blocking pipe, for which os starts the poller
		times         int
	}{
		{"poller", "", fifo, 20},
		{"cgroups", "GODEBUG=containermaxprocs=1,updatemaxprocs=1", "", 20},
		{"limit", "GOMEMLIMIT=4MiB", "", 200},
		{"collector", `GOGC=1 X="$(head -c 100000 /dev/zero | tr '\0' x)" Y="$X" Z="$X"`, "", 100},
	} {
		t.Run(test.name, func(t *testing.T) {
			script := fmt.Sprintf(`for i in $(seq %d); do %s fdclient get web adm -- sh -c 'echo $LISTEN_FDS'; done`, test.times, test.setting)
			out, said, _ := r.sh(t, script, test.stdin)
			if want := strings.Repeat("2\n", test.times); out != want || said != "" {
				t.Errorf("%d of %d times, and %q", strings.Count(out, "2\n"), test.times, said)
			}
		})
	}
}

// TestPlainGetAsksOnce: whatever the broker's answer looks like. This address is not
// written plainly in JSON.
func TestPlainGetAsksOnce(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newPlainRig(t, "--bind", "odd=unix://@"+filepath.Base(t.TempDir())+"-\u00e9\"", "--log-level", "debug")
	out, said, _ := r.sh(t, "fdclient get odd -- sh -c 'echo $LISTEN_FDNAMES'", "")
	if out != "odd\n" || said != "" {
		t.Errorf("got %q and %q", out, said)
	}
	out, said, _ = r.sh(t, "fdclient get web adm -- sh -c 'echo $LISTEN_FDNAMES'", "") // whose grant is told of later
	if out != "web:adm\n" || said != "" {
		t.Errorf("got %q and %q", out, said)
	}
	fdtest.Eventually(t, "the broker has told of both grants", func() bool { return r.logged(t, `"message":"granted"`) >= 2 })
	if n := r.logged(t, `"message":"granted"`); n != 2 {
		t.Errorf("%d grants, want 2", n)
	}
}

// TestPlainGetFails: what is refused, or cannot be executed, is asked for once, and told
// as by the other forms.
func TestPlainGetFails(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newPlainRig(t)
	for name, text := range map[string]string{
		"script": "echo a script got $LISTEN_FDS\n",
		"dos":    "#!/bin/no-such-interpreter\n",
	} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ words, want string }{
		{"nobody -- true", "fdclient: no listener is called \"nobody\"; there are: adm, web\n125\n"},
		{"web nobody -- true", "fdclient: no listener is called \"nobody\"; there are: adm, web\n125\n"},
		{"web -- no-such-command", "127\n"},
		{"web -- ./s", "126\n"},
		{"web -- ./dos", "126\n"},
		{"web -- ./script", "a script got 1\n0\n"},
		{"web -- sh -c 'exit 7'", "7\n"},
		{"'' -- true", "125\n"},
	} {
		results := make([]string, 2)
		for i, flags := range []string{"", "--drain-signal=TERM "} { // by the other form
			out, said, _ := r.sh(t, "fdclient get "+flags+test.words+" 2>&1 | grep -v '^init '; fdclient get "+flags+test.words+" >/dev/null 2>&1; echo $?", "")
			results[i] = out + said
		}
		if results[0] != results[1] || !strings.HasSuffix(results[0], test.want) {
			t.Errorf("%s: got\n%swant\n%sas by the other form:\n%s", test.words, results[0], test.want, results[1])
		}
	}
	// Four lines ask for what there is not, twice by each form.
	const refusals = 3 * 4
	fdtest.Eventually(t, "the broker has told of all refusals", func() bool { return r.logged(t, `"message":"refused"`) >= refusals })
	if n := r.logged(t, `"message":"refused"`); n != refusals {
		t.Errorf("%d refusals, want %d", n, refusals)
	}
}
