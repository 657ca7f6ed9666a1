package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
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

// getRig is a broker with two listeners, and both commands as they are installed.
type getRig struct {
	dir string // of the commands, the control socket "s", and the broker's "log"
}

func newGetRig(t *testing.T, args ...string) *getRig {
	t.Helper()
	r := &getRig{dir: fdtest.SocketDir(t)}
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
func (r *getRig) logged(t *testing.T, text string) int {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(r.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(log), text)
}

// sh runs a script, in which fdclient is in PATH, and returns its output.
func (r *getRig) sh(t *testing.T, script, stdin string) (stdout, stderr string) {
	t.Helper()
	c := exec.Command("sh", "-c", script)
	c.Dir = r.dir
	c.Env = append(os.Environ(), "PATH="+r.dir+":"+os.Getenv("PATH"), "FDBROKER_SOCKET="+r.dir+"/s")
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
	_ = c.Run() // the scripts print the status
	return out.String(), errs.String()
}

// TestGetForms: all forms of get find the same. An inherited descriptor at 3 or 4 gives way
// to a socket, and the others stay.
func TestGetForms(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newGetRig(t)
	const show = ` sh -c 'echo $LISTEN_FDS $LISTEN_FDNAMES $((LISTEN_PID - $$)); exec ls -l /proc/self/fd'`
	const want = "2 web:adm 0; 0 /dev/null 1 pipe 2 pipe 3 socket 4 socket 5 /dev/null 6 /proc 7 /dev/null"
	link := regexp.MustCompile(` (\d) -> (/?[a-z]+(?:/null)?)`) // numbers of two digits are the test's own
	for _, test := range []struct{ name, line string }{
		{"short", "fdclient get web adm --" + show},
		{"socket", "fdclient --socket $PWD/s get web adm --" + show},
		{"flag", "fdclient get --blocking=false web adm --" + show},
		{"environment", "export FDBROKER_X=1; fdclient get web adm --" + show},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, said := r.sh(t, "exec 3</dev/null 4</dev/null 5</dev/null 7</dev/null; "+test.line, "")
			got, list, _ := strings.Cut(out, "\n")
			got += ";"
			for _, m := range link.FindAllStringSubmatch(list, -1) {
				got += " " + m[1] + " " + m[2]
			}
			if got != want || said != "" {
				t.Errorf("got\n%s\n%s\nwant\n%s", got, said, want)
			}
		})
	}
}

// TestGetBusy: the Go runtime may have descriptors at the sockets' numbers, and may open
// one there at any moment. A get that placed sockets in the shared descriptor table failed
// once in ten or a hundred times.
func TestGetBusy(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newGetRig(t)
	fifo := r.dir + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, setting string
		stdin         string // a non-blocking pipe, for which package os starts the poller
		times         int
	}{
		{"poller", "", fifo, 20},
		{"cgroups", "GODEBUG=containermaxprocs=1,updatemaxprocs=1", "", 20},
		{"limit", "GOMEMLIMIT=4MiB", "", 200},
		{"collector", `GOGC=1 X="$(head -c 100000 /dev/zero | tr '\0' x)" Y="$X" Z="$X"`, "", 100},
	} {
		t.Run(test.name, func(t *testing.T) {
			script := fmt.Sprintf(`for i in $(seq %d); do %s fdclient get web adm -- sh -c 'echo $LISTEN_FDS'; done`, test.times, test.setting)
			out, said := r.sh(t, script, test.stdin)
			if want := strings.Repeat("2\n", test.times); out != want || said != "" {
				t.Errorf("%d of %d times, and %q", strings.Count(out, "2\n"), test.times, said)
			}
		})
	}
}

// TestGetFewDescriptors: the runtime has no descriptors of its own at the sockets' numbers.
func TestGetFewDescriptors(t *testing.T) {
	fdtest.CheckLeaks(t)
	out, said := newGetRig(t).sh(t, "ulimit -n 8; fdclient get web adm -- sh -c 'echo $LISTEN_FDS'", "")
	if out != "2\n" || said != "" {
		t.Errorf("got %q and %q", out, said)
	}
}

// TestGetParentDeathSignal: the command keeps the signal that a supervisor wants it to get (PR_SET_PDEATHSIG).
func TestGetParentDeathSignal(t *testing.T) {
	fdtest.CheckLeaks(t)
	out, said := newGetRig(t).sh(t, "setpriv --pdeathsig TERM fdclient get web -- setpriv --dump", "")
	if !strings.Contains(out, "Parent death signal: TERM\n") || said != "" {
		t.Errorf("got %q and %q", out, said)
	}
}

// TestGetAsksOnce: get asks once, also if the address in the answer needs JSON escapes.
func TestGetAsksOnce(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newGetRig(t, "--bind", "odd=unix://@"+filepath.Base(t.TempDir())+"-\u00e9\"", "--log-level", "debug")
	out, said := r.sh(t, "fdclient get odd -- sh -c 'echo $LISTEN_FDNAMES'", "")
	if out != "odd\n" || said != "" {
		t.Errorf("got %q and %q", out, said)
	}
	out, said = r.sh(t, "fdclient get web adm -- sh -c 'echo $LISTEN_FDNAMES'", "") // its grant is logged later
	if out != "web:adm\n" || said != "" {
		t.Errorf("got %q and %q", out, said)
	}
	fdtest.Eventually(t, "the broker has logged both grants", func() bool { return r.logged(t, `"message":"granted"`) >= 2 })
	if n := r.logged(t, `"message":"granted"`); n != 2 {
		t.Errorf("%d grants, want 2", n)
	}
}

// TestGetFails: a get that is refused, or whose command cannot be executed, asks once.
func TestGetFails(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newGetRig(t)
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
		if got, _ := r.sh(t, "fdclient get "+test.words+" 2>&1; echo $?", ""); !strings.HasSuffix(got, test.want) {
			t.Errorf("%s: got\n%swant\n%s", test.words, got, test.want)
		}
	}
	const refusals = 3 // the first two and the last
	fdtest.Eventually(t, "the broker has logged all refusals", func() bool { return r.logged(t, `"message":"refused"`) >= refusals })
	if n := r.logged(t, `"message":"refused"`); n != refusals {
		t.Errorf("%d refusals, want %d", n, refusals)
	}
}

// TestGetFailsWithoutPoller: a get that has failed does not begin to use the runtime's poller, in a descriptor table that
// other threads do not have: they would end the process with a crash.
func TestGetFailsWithoutPoller(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newGetRig(t)
	if err := os.WriteFile(filepath.Join(r.dir, "dos"), []byte("#!/bin/no-such-interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer in.Close()
	full, err := unix.FcntlInt(in.Fd(), unix.F_SETPIPE_SZ, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(make([]byte, full)); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(filepath.Join(r.dir, "fdclient"), "--socket", r.dir+"/s", "get", "web", "--", r.dir+"/dos")
	c.Stderr = in // it waits there, for longer than the runtime does before it looks at its poller
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	fdtest.Eventually(t, "it wants to say why", func() bool {
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", c.Process.Pid))
		return err != nil || bytes.HasPrefix(call, fmt.Appendf(nil, "%d 0x2 ", unix.SYS_WRITE))
	})
	for _, fd := range fdtest.FDsOf(t, c.Process.Pid) {
		if strings.Contains(fd, "eventpoll") {
			t.Error("it has ", fd)
		}
	}
	if _, err := io.CopyN(io.Discard, out, int64(full)); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); c.ProcessState.ExitCode() != 126 {
		t.Error(err)
	}
}
