//go:build linux

package launch

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Passed is a descriptor for [InPlace], by any name without a colon.
type Passed struct {
	Name string
	FD   *scmrights.FD // borrowed
}

// Hold makes signals wait, from the exec until the program asks for them: it must be a Go
// program that does. They stay blocked in processes that it starts. Not SIGHUP, SIGINT
// and SIGTERM: a Go program unblocks those by itself.
func (p *Program) Hold(signals ...syscall.Signal) { p.held = signals }

// hold blocks them in the calling thread, whose mask the program inherits.
func (p *Program) hold() error {
	if len(p.held) == 0 {
		return nil
	}
	var set unix.Sigset_t
	for _, s := range p.held {
		set.Val[(s-1)/64] |= 1 << ((s - 1) % 64)
	}
	return os.NewSyscallError("sigprocmask", unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil))
}

// InPlace returns the program that replaces this process by path, with all of passed as
// sd_listen_fds(3) has it. The environment is environ, less what that speaks of other
// descriptors.
func InPlace(path string, argv, environ []string, passed []Passed) *Program {
	p := &Program{path: path, argv: argv, first: listenFDsStart}
	names := make([]string, len(passed))
	for i, d := range passed {
		names[i] = d.Name
		p.fds = append(p.fds, d.FD)
	}
	p.env = compose(environ, []string{
		"LISTEN_FDS=" + strconv.Itoa(len(passed)),
		"LISTEN_PID=" + strconv.Itoa(os.Getpid()),
		"LISTEN_FDNAMES=" + strings.Join(names, ":"),
	})
	return p
}
