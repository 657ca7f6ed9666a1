package restarttest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestKeeperRoom: if the keeper has no room for a listener, who binds it is told, and the listeners before it outlive
// the broker with their sockets.
func TestKeeperRoom(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := startAs(t, func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `ulimit -n 64; exec "$0" "$@"`}, cmd.Args...)
		cmd.Path = "/bin/sh"
	}, "--store=keeper", "--bind", "web=127.0.0.1:0")
	pid := r.answers(0)
	stored := []string{"web"}
	for i := 0; ; i++ {
		name := fmt.Sprint("n", i)
		out, err := exec.Command(filepath.Dir(r.program)+"/fdclient", "bind", name+"=127.0.0.1:0").CombinedOutput()
		if err != nil || i == 40 {
			t.Fatalf("%s: %v, %s", name, err, out)
		}
		if strings.Contains(string(out), name+" would not outlive the broker: the store has room for") {
			break
		}
		stored = append(stored, name)
	}
	if len(stored) < 10 {
		t.Errorf("the store has only %q", stored)
	}
	before := r.cookies()
	r.kill(pid)
	r.answers(pid)
	now := r.cookies()
	for _, name := range stored {
		if now[name] != before[name] {
			t.Errorf("%s has another socket", name)
		}
	}
}
