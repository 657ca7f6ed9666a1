// Package cli is what both commands do alike with flags, errors and terminals. It runs nothing and never exits.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/fdbroker/fdbroker/internal/kernel"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// Version is the version of this tree, by semantic versioning.
const Version = "0.1.0"

// Exit statuses.
const (
	OK     = 0
	Failed = 1
	Usage  = 2
)

// Flags returns a set for flags that are shown in the order of their definition. Its user prints the usage.
func Flags(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.Usage = func() {}
	fs.SortFlags = false
	return fs
}

// Parse parses args. An error about a flag's value says what to use, for an int a text such as "a number".
func Parse(fs *pflag.FlagSet, args []string, number string) error {
	err := fs.Parse(args)
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	f := invalid.GetFlag()
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand
	}
	switch f.Value.Type() {
	case "int", "int64":
		return fmt.Errorf("%s %q: use %s", name, invalid.GetValue(), number)
	case "duration":
		return fmt.Errorf("%s %q: use a duration such as 10s", name, invalid.GetValue())
	}
	return err
}

// Complain prints an error of command, each line as one of the command's, and which setting of the machine is behind it.
// It makes them printable, because other users choose the names of processes.
func Complain(w io.Writer, command string, err error) {
	text := err.Error()
	if why := kernel.Explain(err); !strings.Contains(text, why) {
		text += ": " + why
	}
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintf(w, "%s: %s\n", command, protocol.Printable(line))
	}
}

// IsTerminal reports whether w is a terminal (TCGETS, ioctl_tty(2)).
func IsTerminal(w io.Writer) (is bool) {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	rc, err := f.SyscallConn() // Fd would make it block
	if err != nil {
		return false
	}
	_ = rc.Control(func(fd uintptr) {
		_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		is = err == nil
	})
	return is
}
