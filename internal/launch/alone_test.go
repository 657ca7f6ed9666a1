//go:build linux

package launch_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/launch"
)

// TestAlone: not where the runtime has, or may come to have, descriptors where sockets go.
func TestAlone(t *testing.T) {
	small := launch.Config{Sockets: []launch.Socket{{Name: "web"}}, Command: []string{"x"}}
	small.Stdin = true // what stands at 0 is not this process's own
	for name, test := range map[string]struct {
		environ, command []string
		want             bool
	}{
		"nothing":          {nil, nil, true},
		"of another name":  {[]string{"GOGCX=1", "XGOGC=1"}, nil, true},
		"a collector":      {[]string{"A=1", "GOGC=100"}, nil, false},
		"a limit":          {[]string{"GOMEMLIMIT=1"}, nil, false},
		"large variables":  {[]string{"A=" + strings.Repeat("x", 1<<16)}, nil, false},
		"many variables":   {make([]string, 2000), nil, false},
		"a large command":  {nil, []string{"x", strings.Repeat("x", 1<<16)}, false},
		"all of some size": {make([]string, 100), make([]string, 100), true},
	} {
		c := small
		c.Environ, c.Command = test.environ, test.command
		if got := launch.Alone(c); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	// One of the runtime's own, above 2: its descriptors are close-on-exec.
	n, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(n)
	c := launch.Config{Sockets: make([]launch.Socket, n-2), Command: []string{"x"}}
	if launch.Alone(c) {
		t.Errorf("%d sockets from 3 up, and %d is close-on-exec", len(c.Sockets), n)
	}
}
