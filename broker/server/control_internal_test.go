//go:build linux

package server

import (
	"errors"
	"os"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// TestReplacedControlIsLeftAlone: where somebody has put another file in the place of
// the control socket of an earlier broker, that file keeps its mode, whether or not it
// is known which file the socket's was.
func TestReplacedControlIsLeftAlone(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	path, victim := dir+"/c", dir+"/victim"
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := ControlConfig{Path: path, Mode: 0o666}
	fd, _, err := listenUnix(c)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	if err := errors.Join(os.Remove(path), os.Symlink(victim, path)); err != nil {
		t.Fatal(err)
	}
	id, err := idOf(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, saved := range []savedControl{{}, {id, path}} {
		dup, err := fd.Dup()
		if err != nil {
			t.Fatal(err)
		}
		r := &RestoredControl{dup, saved}
		if used, _, err := r.use(c); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("got %v, want EADDRINUSE", err)
			if used != nil {
				_ = used.Close()
			}
		}
		r.close()
	}
	if st, err := os.Stat(victim); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the other file: %v, %v", st.Mode(), err)
	}
	if _, err := ListenControl(c); err == nil {
		t.Error("the symbolic link was taken for a control socket")
	}
}

// TestControlWithoutItsGroup: where the file cannot be given its group, there is none.
func TestControlWithoutItsGroup(t *testing.T) {
	fdtest.CheckLeaks(t)
	none := 1<<32 - 2 // a gid that no user but root may give a file
	if os.Geteuid() == 0 {
		t.Skip("root may give any group")
	}
	dir := fdtest.SocketDir(t)
	if _, err := ListenControl(ControlConfig{Path: dir + "/c", GID: &none}); err == nil {
		t.Fatal("it has the group")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
