package launch_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/scmrights"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{
		"launch": helperLaunch,
		"probe":  helperProbe,
		"return": helperReturn,
	})
}

// job is a command for the helper "launch", and the circumstances of the exec.
type job struct {
	Names  []string // of listeners that the helper makes itself, or
	At     []int    // of listeners that it inherited at these numbers
	Config launch.Config
	Busy   bool     // other goroutines use the runtime's poller meanwhile
	Forbid []uint32 // system calls that a seccomp filter refuses
	Close  bool     // close the sockets before they are placed
	Turn   bool     // place the sockets in reverse order, so that all have to be moved
}

// start returns the command that runs the job as a process.
func (j job) start(t *testing.T) *exec.Cmd {
	t.Helper()
	b, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	// The helper must not inherit descriptors beyond 2 that this process has inherited.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if n, _ := strconv.Atoi(e.Name()); n > 2 {
			unix.CloseOnExec(n) // fails for the directory, which is closed by now
		}
	}
	return fdtest.Helper(t, "launch", string(b))
}

// run runs the job, through the shell script sh unless that is empty.
func (j job) run(t *testing.T, sh string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := j.start(t)
	if sh != "" {
		through(cmd, sh)
	}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// through makes cmd a shell script, which finds cmd's own words in "$@".
func through(cmd *exec.Cmd, script string) {
	cmd.Args = slices.Concat([]string{"sh", "-c", script, "sh", cmd.Path}, cmd.Args[1:])
	cmd.Path = "/bin/sh"
}

// mustRun is run for a job that has to succeed, and to be silent on stderr.
func (j job) mustRun(t *testing.T, sh string) (stdout string) {
	t.Helper()
	stdout, stderr, code := j.run(t, sh)
	if code != 0 || stderr != "" {
		t.Fatalf("exit status %d, standard error: %s", code, stderr)
	}
	return stdout
}

// shellJob runs a script as the command.
func shellJob(script string, names ...string) job {
	return job{Names: names, Config: launch.Config{Command: []string{"/bin/sh", "-c", script}}}
}

// helperLaunch is the end of "fdclient get", from when it has its sockets.
func helperLaunch(args []string) int {
	var j job
	if err := json.Unmarshal([]byte(args[0]), &j); err != nil {
		return fail(err)
	}
	if j.Busy {
		makeBusy() // first, so that the runtime's descriptors have the sockets' numbers
	}
	c := j.Config
	for i, name := range j.Names {
		s, err := j.socket(i, name)
		if err != nil {
			return fail(err)
		}
		c.Sockets = append(c.Sockets, s)
	}
	if j.Turn {
		slices.Reverse(c.Sockets)
	}
	c.Environ = append(os.Environ(), c.Environ...)
	var refused []fdtest.Refused
	for _, nr := range j.Forbid {
		refused = append(refused, fdtest.Refused{Call: nr})
	}
	if err := fdtest.Refuse(refused...); err != nil {
		return fail(err)
	}
	p, err := launch.Prepare(c)
	for _, s := range c.Sockets {
		if j.Close {
			s.FD.Close()
		}
	}
	if err == nil {
		err = p.Exec()
	}
	fmt.Fprintln(os.Stderr, err)
	return launch.ExitCode(err)
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "helper:", err)
	return 99
}

// socket returns the job's i-th socket. Its address is the kernel's name for it,
// so that the program can tell that it is the right one.
func (j *job) socket(i int, name string) (launch.Socket, error) {
	n := -1
	if i < len(j.At) {
		n = j.At[i]
		unix.CloseOnExec(n)
	} else {
		var err error
		if n, err = listen(unix.SOCK_NONBLOCK); err != nil {
			return launch.Socket{}, err
		}
	}
	link, err := os.Readlink(fmt.Sprint("/proc/self/fd/", n))
	return launch.Socket{Name: name, Network: "unix", Address: link, FD: scmrights.NewFD(n)}, err
}

// listen returns a close-on-exec listener at an address that the kernel chose.
func listen(flags int) (int, error) {
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
	if err == nil {
		err = unix.Bind(n, &unix.SockaddrUnix{})
	}
	if err == nil {
		err = unix.Listen(n, 1)
	}
	return n, err
}

// garbage keeps the garbage collector of a busy process busy.
var garbage []byte

// makeBusy starts goroutines that use memory, timers, files and the network for
// ever, and returns once each has done so.
func makeBusy() {
	work := []func(){
		func() { <-time.After(time.Microsecond) },
		func() { garbage = make([]byte, 1<<16) },
		func() { f, _ := os.Open("/dev/null"); f.Close() },
		func() { r, w, _ := os.Pipe(); w.Write([]byte("x")); r.Read(make([]byte, 1)); r.Close(); w.Close() },
		func() {
			ln, err := net.Listen("unix", "")
			if err != nil {
				return
			}
			if c, err := net.Dial("unix", ln.Addr().String()); err == nil {
				c.Close()
			}
			ln.Close()
		},
	}
	started := make(chan bool, len(work))
	for _, w := range work {
		go func() {
			w()
			started <- true
			for {
				w()
			}
		}()
	}
	for range work {
		<-started
	}
}
