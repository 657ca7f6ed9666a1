package launch_test

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/launch"
)

// wantEnv fails the test if key is not in p.Env once, with that value; "" stands
// for not at all.
func (p probe) wantEnv(t *testing.T, key, want string) {
	t.Helper()
	var got []string
	for _, kv := range p.Env {
		if strings.HasPrefix(kv, key+"=") {
			got = append(got, kv)
		}
	}
	if want == "" && len(got) > 0 || want != "" && !slices.Equal(got, []string{key + "=" + want}) {
		t.Errorf("%s: got %q, want %q", key, got, want)
	}
}

// stale are variables that the caller had from its own service manager.
var stale = []string{"LISTEN_FDS=9", "LISTEN_PID=1", "LISTEN_FDNAMES=stale", "LISTEN_PIDFDID=1"}

func TestExec(t *testing.T) {
	fdtest.CheckLeaks(t)
	j := job{Names: []string{"web", "adm", "web.2"}}
	j.Config.Environ = stale
	j.Config.Command = []string{"{addr:web}", "{addr:adm}", "{addr:web.2}"}
	p := j.probe(t, "")

	want := p.Args[1:] // the sockets at the addresses that the helper made
	for i, link := range want {
		if got := p.FDs[3+i]; got != link {
			t.Errorf("descriptor %d: got %s, want %s", 3+i, got, link)
		}
	}
	if got := slices.Sorted(maps.Keys(p.FDs)); !slices.Equal(got, []int{0, 1, 2, 3, 4, 5}) {
		t.Errorf("open: %v", p.FDs)
	}
	if len(p.Block) > 0 {
		t.Errorf("lost O_NONBLOCK: %v", p.Block)
	}
	p.wantEnv(t, "LISTEN_FDS", "3")
	p.wantEnv(t, "LISTEN_PID", strconv.Itoa(p.PID))
	p.wantEnv(t, "LISTEN_FDNAMES", "web:adm:web.2")
	p.wantEnv(t, "LISTEN_PIDFDID", p.PidfdID)
}

func TestExecStdin(t *testing.T) {
	fdtest.CheckLeaks(t)
	j := job{Names: []string{"web"}}
	j.Config.Stdin = true
	j.Config.Environ = stale
	j.Config.Env = []string{"WHERE={fd}"}
	j.Config.Command = []string{"{addr}"}
	p := j.probe(t, "")
	if len(p.FDs) != 3 || p.FDs[0] != p.Args[1] {
		t.Errorf("got %v, want %s at 0", p.FDs, p.Args[1])
	}
	for _, kv := range stale {
		key, _, _ := strings.Cut(kv, "=")
		p.wantEnv(t, key, "")
	}
	p.wantEnv(t, "WHERE", "0")
}

func TestExecNoListenEnv(t *testing.T) {
	fdtest.CheckLeaks(t)
	j := job{Names: []string{"web", "adm"}}
	j.Config.NoListenEnv = true
	j.Config.Environ = stale
	j.Config.Command = []string{"{addr}", "{addr:adm}"}
	p := j.probe(t, "")
	if len(p.FDs) != 5 || p.FDs[3] != p.Args[1] || p.FDs[4] != p.Args[2] {
		t.Errorf("got %v, want %s at 3 and 4", p.FDs, p.Args[1:])
	}
	for _, kv := range stale {
		key, _, _ := strings.Cut(kv, "=")
		p.wantEnv(t, key, "")
	}
}

// TestExecOpen looks from outside at a program that opens nothing itself.
func TestExecOpen(t *testing.T) {
	fdtest.CheckLeaks(t)
	j := job{Names: []string{"web", "adm"}, Busy: true}
	j.Config.Command = []string{"cat"}
	cmd := j.start(t)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "hello")
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "hello\n" {
		t.Fatalf("cat says %q, %v", line, err)
	}
	var open []string
	for _, fd := range fdtest.FDsOf(t, cmd.Process.Pid) {
		n, to, _ := strings.Cut(fd, " -> ")
		kind, _, _ := strings.Cut(to, ":")
		if n != "2" {
			open = append(open, n+" "+kind)
		}
	}
	slices.Sort(open)
	if want := []string{"0 pipe", "1 pipe", "3 socket", "4 socket"}; !slices.Equal(open, want) {
		t.Errorf("open besides 2: got %q, want %q", open, want)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestExecPermuted has sockets at each other's numbers.
func TestExecPermuted(t *testing.T) {
	fdtest.CheckLeaks(t)
	var links []string
	var files []*os.File
	for range 4 {
		n, err := listen(0) // blocking, as os/exec makes all that it passes on
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(n), "listener")
		defer f.Close()
		link, err := os.Readlink(fmt.Sprint("/proc/self/fd/", n))
		if err != nil {
			t.Fatal(err)
		}
		links, files = append(links, link), append(files, f)
	}
	for _, at := range [][]int{{3}, {3, 4}, {4, 3}, {4, 5, 3}, {5, 4, 3}, {6, 3}, {5}, {6, 5, 4, 3}} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			j := job{Names: make([]string, len(at)), At: at, Config: launch.Config{NoListenEnv: true}}
			for i := range at {
				j.Names[i] = fmt.Sprint("s", i)
			}
			closing, script := []string{"exec"}, []string{"readlink"}
			for n := 3; n < 3+len(files); n++ {
				if !slices.Contains(at, n) {
					closing = append(closing, fmt.Sprintf("%d<&-", n)) // or it would be the caller's
				}
			}
			for i := range at {
				script = append(script, fmt.Sprint("/proc/$$/fd/", 3+i))
			}
			j.Config.Command = []string{"sh", "-c", strings.Join(script, " ")}
			cmd := j.start(t)
			cmd.ExtraFiles = files
			through(cmd, strings.Join(closing, " ")+`; exec "$@"`)
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Fields(string(out))
			for i, n := range at {
				if i >= len(got) || got[i] != links[n-3] {
					t.Fatalf("got %q, want those of %q that were at %v", got, links, at)
				}
			}
		})
	}
}

// TestExecKeeps: the program has the attributes of the caller.
func TestExecKeeps(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := t.TempDir()
	tests := []struct {
		name   string
		caller string // shell words before the command is exec'd
		script string // in the program
		want   string
		stdin  bool
	}{
		{name: "limit", caller: "ulimit -Sn 64", script: "ulimit -Sn", want: "64\n"},
		{name: "umask", caller: "umask 027", script: "umask", want: "0027\n"},
		{name: "directory", caller: "cd " + dir, script: "pwd", want: dir + "\n"},
		{name: "nohup", caller: "trap '' HUP INT", script: "grep SigIgn: /proc/self/status", want: "SigIgn:\t0000000000000003\n"},
		{name: "no ignored signal of ours", script: "grep SigIgn: /proc/self/status", want: "SigIgn:\t0000000000000000\n"},
		{name: "no blocked signal of ours", script: "grep SigBlk: /proc/self/status", want: "SigBlk:\t0000000000000000\n"},
		{name: "its descriptors", caller: "exec 5</etc/passwd", script: "readlink /proc/$$/fd/5", want: "/etc/passwd\n"},
		{name: "none of them in the way", caller: "exec 3</etc/passwd", script: "readlink /proc/$$/fd/3 | cut -d: -f1", want: "socket\n"},
		{name: "closed input", caller: "exec <&-", script: "readlink /proc/$$/fd/0 /proc/$$/fd/3 | cut -d: -f1", want: "/dev/null\nsocket\n"},
		{name: "closed error output", caller: "exec 2>&-", script: "readlink /proc/$$/fd/2 /proc/$$/fd/3 | cut -d: -f1", want: "/dev/null\nsocket\n"},
		{name: "closed output", caller: "exec 4>&1 >&-", script: "readlink /proc/$$/fd/1 /proc/$$/fd/3 | cut -d: -f1 >&4", want: "/dev/null\nsocket\n"},
		{name: "all closed", caller: "exec 4>&1 <&- >&- 2>&-", script: "readlink /proc/$$/fd/0 /proc/$$/fd/3 | cut -d: -f1 >&4", want: "/dev/null\nsocket\n"},
		{name: "closed input becomes the socket", caller: "exec <&-", script: "readlink /proc/$$/fd/0 | cut -d: -f1", want: "socket\n", stdin: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := shellJob(tt.script, "web")
			j.Config.Stdin = tt.stdin
			if got := j.mustRun(t, tt.caller+"\n"+`exec "$@"`); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestExecConfined runs under seccomp filters like those of containers.
func TestExecConfined(t *testing.T) {
	fdtest.CheckLeaks(t)
	j := job{Names: []string{"web"}, Busy: true, Forbid: []uint32{unix.SYS_UNSHARE}}
	j.Config.Command = []string{"{addr}"}
	if p := j.probe(t, ""); len(p.FDs) != 4 || p.FDs[3] != p.Args[1] {
		t.Errorf("without unshare: got %v, want %s at 3", p.FDs, p.Args[1])
	}

	j.Forbid = append(j.Forbid, unix.SYS_CLOSE_RANGE)
	j.Config.Command = []string{"true"}
	_, stderr, code := j.run(t, "")
	const want = "no descriptor table of our own to place the sockets in: unshare: operation not permitted, " +
		"close_range: operation not permitted; a seccomp profile must allow unshare or close_range\n"
	if code != 125 || stderr != want {
		t.Errorf("without both: exit status %d: %s", code, stderr)
	}
}

// TestExecBusy execs while other goroutines of the process use the runtime's
// descriptors, which have the sockets' numbers. Placing them in the table
// that all threads share fails some of these runs: tried, about 20 of 200.
func TestExecBusy(t *testing.T) {
	fdtest.CheckLeaks(t)
	const runs, atOnce = 200, 4
	j := job{Busy: true}
	var placed, made []string
	for i := range 12 {
		name := fmt.Sprint("s", i)
		j.Names = append(j.Names, name)
		placed = append(placed, "/proc/$$/fd/{fd:"+name+"}")
		made = append(made, "'{addr:"+name+"}'")
	}
	j.Config.Command = []string{"/bin/sh", "-c",
		"readlink " + strings.Join(placed, " ") + " && echo " + strings.Join(made, " ")}
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for range runs / atOnce {
				stdout, stderr, code := j.run(t, "")
				words := strings.Fields(stdout)
				if code != 0 || len(words) != 2*len(j.Names) || !slices.Equal(words[:len(words)/2], words[len(words)/2:]) {
					t.Errorf("exit status %d\n%s%s", code, stdout, stderr)
				}
			}
		})
	}
	wg.Wait()
}
