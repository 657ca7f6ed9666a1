package activation_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"take": takeHelper})
}

// takeHelper sets the variables in its arguments, in which PID and PIDFDID stand for
// its own, takes, and prints what it got.
func takeHelper(args []string) int {
	var st unix.Stat_t
	if fd, err := unix.PidfdOpen(os.Getpid(), 0); err == nil {
		_ = unix.Fstat(fd, &st)
		_ = unix.Close(fd)
	}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch value {
		case "PID":
			value = strconv.Itoa(os.Getpid())
		case "PIDFDID":
			value = strconv.FormatUint(st.Ino, 10)
		case "OWN": // all up to a descriptor that this process has opened
			fd, _ := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			value = strconv.Itoa(fd - 2)
		}
		_ = os.Setenv(key, value)
	}
	passed, err := activation.Take()
	if err != nil {
		fmt.Println(err)
	}
	for _, p := range passed {
		_ = p.FD.Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
			fmt.Println(p.Name, p.Number, fd, flags&unix.FD_CLOEXEC != 0, err)
		})
	}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "LISTEN_") {
			fmt.Println("still set:", v)
		}
	}
	return 0
}

func TestTake(t *testing.T) {
	for _, c := range []struct {
		name string
		env  string
		want string
	}{
		{"none", "", ""},
		{"two", "LISTEN_PID=PID LISTEN_FDS=2 LISTEN_FDNAMES=web:adm", "web 3 3 true <nil>\nadm 4 4 true <nil>\n"},
		{"no names", "LISTEN_PID=PID LISTEN_FDS=1", "unknown 3 3 true <nil>\n"},
		{"an empty name", "LISTEN_PID=PID LISTEN_FDS=1 LISTEN_FDNAMES=", " 3 3 true <nil>\n"},
		{"another's", "LISTEN_PID=1 LISTEN_FDS=2 LISTEN_FDNAMES=web:adm", ""},
		{"whose pid came again", "LISTEN_PID=PID LISTEN_PIDFDID=1 LISTEN_FDS=1", ""},
		{"by pidfd", "LISTEN_PID=PID LISTEN_PIDFDID=PIDFDID LISTEN_FDS=1", "unknown 3 3 true <nil>\n"},
		{"no number", "LISTEN_PID=PID LISTEN_FDS=two", "LISTEN_FDS=two: not a number of descriptors\n"},
		{"negative", "LISTEN_PID=PID LISTEN_FDS=-1", "LISTEN_FDS=-1: not a number of descriptors\n"},
		{"too few names", "LISTEN_PID=PID LISTEN_FDS=2 LISTEN_FDNAMES=web", "LISTEN_FDNAMES=web: 1 names for 2 descriptors\n"},
		{"not passed", "LISTEN_PID=PID LISTEN_FDS=900", "LISTEN_FDS=900: descriptor"},
		{"not passed, but open", "LISTEN_PID=PID LISTEN_FDS=OWN", "LISTEN_FDS="},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(c.env, "LISTEN_PIDFDID") && !hasPidfs(t) {
				t.Skip("this kernel has no pidfs, or this is a 32-bit program")
			}
			cmd := fdtest.Helper(t, "take", strings.Fields(c.env)...)
			for range 2 {
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				defer w.Close()
				cmd.ExtraFiles = append(cmd.ExtraFiles, r)
			}
			notPassed := strings.HasPrefix(c.name, "not passed")
			if got := output(t, cmd); got != c.want && !(notPassed && strings.HasPrefix(got, c.want)) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func hasPidfs(t *testing.T) bool {
	t.Helper()
	if strconv.IntSize < 64 {
		return false // half of the inode number is out of sight
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == 0x50494446
}
