package launch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/scmrights"
)

// listenFDsStart is the number of the first passed descriptor (SD_LISTEN_FDS_START).
const listenFDsStart = 3

// Socket is one granted socket.
type Socket struct {
	Name    string        // the listener's
	Network string        // tcp, tcp4, tcp6, udp, udp4, udp6, unix, unixpacket or unixgram
	Address string        // as bound: 127.0.0.1:80, [::]:9000, /run/app.sock, @abstract
	FD      *scmrights.FD // borrowed: it must stay open until Exec, which uses it
}

// Config is a command, its sockets and its environment.
type Config struct {
	Sockets     []Socket // at least one, in the order asked
	Stdin       bool     // place the only socket at 0, and set no LISTEN_*
	NoListenEnv bool     // set no LISTEN_*
	Env         []string // K=TEMPLATE; the last one of a K wins, over LISTEN_* and Environ as well
	Command     []string // the command and its arguments, before placeholders are replaced
	Environ     []string // the environment to start from, usually os.Environ()
}

// Program is a command that is ready to replace this process.
type Program struct {
	// Held is blocked from the exec until the program asks for it, which must be a Go program that does. It stays blocked
	// in processes that it starts. SIGHUP, SIGINT and SIGTERM cannot be held, because a Go program unblocks them itself.
	Held syscall.Signal
	// Ignored is ignored when the program starts. A Go program keeps only SIGHUP and SIGINT ignored, until it asks for
	// them.
	Ignored syscall.Signal

	path  string
	argv  []string
	env   []string
	fds   []*scmrights.FD
	first int // the number of the first socket
}

// Prepare checks all that can be checked before the exec. It replaces placeholders in the
// command and in c.Env, composes the environment, and finds the command as execvp(3) does, in
// the PATH of c.Environ. It borrows c's descriptors, and opens none.
func Prepare(c Config) (*Program, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	p := &Program{first: listenFDsStart}
	if c.Stdin {
		p.first = 0
	}
	x := expander{sockets: c.Sockets, first: p.first}
	for _, word := range c.Command {
		w, err := x.expand(word)
		if err != nil {
			return nil, fmt.Errorf("in the command's word %q: %w", word, err)
		}
		p.argv = append(p.argv, w)
	}
	names := make([]string, len(c.Sockets))
	for i, s := range c.Sockets {
		names[i] = s.Name
		p.fds = append(p.fds, s.FD)
	}
	var env []string
	if !c.Stdin && !c.NoListenEnv {
		env = activation.Environ(names)
	}
	set, err := x.settings(c.Env)
	if err != nil {
		return nil, err
	}
	p.env = compose(c.Environ, append(env, set...))
	p.path, err = lookup(p.argv[0], c.Environ)
	return p, err
}

// Passed is a descriptor for [InPlace], under any name without a colon.
type Passed struct {
	Name string
	FD   *scmrights.FD // borrowed
}

// InPlace returns the program that replaces this process by path, with all of passed as sd_listen_fds(3) describes. The
// environment is environ without variables about other descriptors.
func InPlace(path string, argv, environ []string, passed []Passed) *Program {
	p := &Program{path: path, argv: argv, first: listenFDsStart}
	names := make([]string, len(passed))
	for i, d := range passed {
		names[i] = d.Name
		p.fds = append(p.fds, d.FD)
	}
	p.env = compose(environ, activation.Environ(names))
	return p
}

func (c *Config) check() error {
	switch {
	case len(c.Command) == 0 || c.Command[0] == "":
		return errors.New("no command to run")
	case len(c.Sockets) == 0:
		return errors.New("no socket to pass on")
	case c.Stdin && len(c.Sockets) != 1:
		return fmt.Errorf("standard input can be one socket only, and %d were asked for", len(c.Sockets))
	}
	for _, s := range c.Sockets {
		if strings.ContainsRune(s.Address, 0) {
			return fmt.Errorf("the address of %s, %q, contains a zero byte, which neither an argument nor a variable can hold", s.Name, s.Address)
		}
	}
	return nil
}

// compose returns inherited with set on top. A later setting replaces an earlier one of the
// same key. Inherited variables about descriptors are dropped: the program has others.
func compose(inherited, set []string) []string {
	env := make([]string, 0, len(inherited)+len(set))
	for _, kv := range inherited {
		if key := keyOf(kv); !activation.IsListenVariable(key) && !hasKey(set, key) {
			env = append(env, kv)
		}
	}
	for i, kv := range set {
		if !hasKey(set[i+1:], keyOf(kv)) {
			env = append(env, kv)
		}
	}
	return env
}

func keyOf(kv string) string {
	key, _, _ := strings.Cut(kv, "=")
	return key
}

func hasKey(env []string, key string) bool {
	return slices.ContainsFunc(env, func(kv string) bool { return keyOf(kv) == key })
}
