package control_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/control"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
)

// guarded sends what Guard reports.
type guarded struct {
	t    *testing.T
	old  *scmrights.FD
	said chan string
}

func (g *guarded) Renewed(c *control.Control) {
	_ = g.old.Close() // as the event loop does
	g.old = c.Listener
}

func (g *guarded) Returned(what string) { g.said <- what }
func (g *guarded) Gone(err error)       { g.said <- "gone: " + err.Error() }

// says waits for a report that has a text in it.
func (g *guarded) says(text string) {
	g.t.Helper()
	select {
	case is := <-g.said:
		if !strings.Contains(is, text) {
			g.t.Errorf("reported %q, want %q", is, text)
		}
	case <-time.After(fdtest.Long(20 * time.Second)):
		g.t.Errorf("never reported %q", text)
	}
}

// TestGuard: whatever takes the path of the control socket away, it comes back, and a second broker is refused again.
func TestGuard(t *testing.T) {
	do := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		what string
		harm func(t *testing.T, g *guarded, path string)
	}{
		{"removed", func(t *testing.T, g *guarded, path string) {
			do(t, os.Remove(path))
			g.says("removed")
		}},
		{"renamed", func(t *testing.T, g *guarded, path string) {
			do(t, os.Rename(path, path+".old"))
			g.says("removed")
		}},
		{"its directory removed", func(t *testing.T, g *guarded, path string) {
			do(t, os.RemoveAll(filepath.Dir(path)))
			g.says("removed")
		}},
		{"its directory moved", func(t *testing.T, g *guarded, path string) {
			do(t, os.Rename(filepath.Dir(path), filepath.Dir(path)+".old"))
			g.says("removed")
		}},
		{"all removed, and made again", func(t *testing.T, g *guarded, path string) {
			above := filepath.Dir(filepath.Dir(path))
			do(t, os.RemoveAll(above))
			g.says("gone: cannot create the directory")
			do(t, os.Mkdir(above, 0o755))
			g.says("removed")
		}},
		{"a directory above moved away and back", func(t *testing.T, g *guarded, path string) {
			above := filepath.Dir(filepath.Dir(path))
			do(t, os.Rename(above, above+".old"))
			g.says("gone: ")
			do(t, os.Rename(above+".old", above))
			g.says("moved")
		}},
		{"replaced by a file, which is removed later", func(t *testing.T, g *guarded, path string) {
			do(t, os.WriteFile(path+".new", nil, 0o600))
			do(t, os.Rename(path+".new", path))
			g.says("gone: " + path + " exists and is not a socket")
			do(t, os.Remove(path))
			g.says("removed")
		}},
		{"replaced by another socket, which ends later", func(t *testing.T, g *guarded, path string) {
			ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path + ".new"})
			do(t, err)
			ln.SetUnlinkOnClose(false)
			do(t, os.Rename(path+".new", path))
			g.says("gone: another program answers")
			_ = ln.Close()
			g.says("replaced")
		}},
		{"its directory replaced by a link of another user", func(t *testing.T, g *guarded, path string) {
			dir, other := filepath.Dir(path), t.TempDir()
			do(t, os.Symlink(other, dir+".link"))
			do(t, os.Lchown(dir+".link", 1001, 1001))
			do(t, os.Rename(dir, dir+".old"))
			if err := os.Rename(dir+".link", dir); err != nil { // it may be there again already
				g.says("removed")
				do(t, os.RemoveAll(dir))
				do(t, os.Rename(dir+".link", dir))
			}
			g.says("now belongs to uid 1001")
			if made, _ := os.ReadDir(other); len(made) > 0 {
				t.Errorf("made %v there", made)
			}
			do(t, os.Remove(dir))
			g.says("removed")
		}},
		{"its lock removed", func(t *testing.T, g *guarded, path string) {
			do(t, os.Remove(path+".lock"))
			g.says("lock")
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			if strings.HasSuffix(c.what, "of another user") && os.Geteuid() != 0 {
				t.Skip("needs root to make a file of another user")
			}
			fdtest.CheckLeaks(t)
			path := filepath.Join(fdtest.SocketDir(t), "a", "b", "c")
			do(t, os.Mkdir(filepath.Dir(filepath.Dir(path)), 0o755))
			ctl := listen(t, control.Config{Path: path, Mode: 0o660})
			g := &guarded{t: t, old: ctl.Listener, said: make(chan string, 9)}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() { done <- ctl.Guard(ctx, g) }()
			fdtest.Eventually(t, "it answers", func() bool { return answers(path) })
			c.harm(t, g, path)
			fdtest.Eventually(t, "the path leads to it, with its mode and its lock", func() bool {
				st, err := os.Lstat(path)
				if err != nil || st.Mode().Perm() != 0o660 || !answers(path) {
					return false
				}
				_, err = sockfile.TryLock(path)
				locked, ok := errors.AsType[*sockfile.LockedError](err)
				return ok && locked.PID == os.Getpid()
			})
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if sockfile.IDOf(path) != ctl.File() {
				t.Error("the file is another one")
			}
		})
	}
}

func answers(path string) bool {
	c, err := net.Dial("unix", path)
	if err != nil {
		return false
	}
	return c.Close() == nil
}
