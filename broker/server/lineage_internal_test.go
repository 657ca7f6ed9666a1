//go:build linux

package server

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// TestStartedBy: descendants count, also those of other users; where pids cannot be seen
// the user does.
func TestStartedBy(t *testing.T) {
	cmd := exec.Command("sh", "-c", "exec 3<&0; cat <&3 & echo $!; wait")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = stdin.Close(); _ = cmd.Wait() }()
	var grandchild int
	if _, err := fmt.Fscan(stdout, &grandchild); err != nil {
		t.Fatal(err)
	}
	self, child := os.Getpid(), cmd.Process.Pid
	for _, test := range []struct {
		p, starter peer
		want       bool
	}{
		{peer{pid: self}, peer{pid: self}, true},
		{peer{pid: child, uid: 1}, peer{pid: self}, true},
		{peer{pid: grandchild, uid: 1}, peer{pid: self}, true},
		{peer{pid: grandchild}, peer{pid: child}, true},
		{peer{pid: child}, peer{pid: grandchild}, false},
		{peer{pid: self}, peer{pid: child}, false},
		{peer{pid: 1}, peer{pid: self}, false},
		{peer{uid: 1}, peer{pid: self, uid: 1}, true},
		{peer{uid: 1}, peer{pid: self}, false},
		{peer{uid: overflowID}, peer{uid: overflowID}, false},
		{peer{pid: self, uid: 1}, peer{uid: 1}, true},
		{peer{pid: self}, peer{uid: 1}, false},
	} {
		if got := test.p.startedBy(test.starter); got != test.want {
			t.Errorf("%+v, started by %+v: %t", test.p, test.starter, got)
		}
	}
}
