//go:build linux

package socket

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
)

// bound returns a socket that is bound to path and listens; the test's end closes it.
func bound(t *testing.T, path string) *scmrights.FD {
	t.Helper()
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := scmrights.NewFD(n)
	t.Cleanup(func() { _ = fd.Close() })
	if err := errors.Join(unix.Fchmod(n, 0o600), unix.Bind(n, &unix.SockaddrUnix{Name: path}), unix.Listen(n, 1)); err != nil {
		t.Fatal(err)
	}
	return fd
}

// withoutNetAdmin has the test go on without CAP_NET_ADMIN, until the end is called.
func withoutNetAdmin(t *testing.T) (end func()) {
	t.Helper()
	runtime.LockOSThread() // whose capabilities these are
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var is [2]unix.CapUserData
	if err := unix.Capget(&self, &is[0]); err != nil {
		t.Fatal(err)
	}
	less := is
	less[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	if err := unix.Capset(&self, &less[0]); err != nil {
		t.Fatal(err)
	}
	return func() {
		defer runtime.UnlockOSThread()
		if err := unix.Capset(&self, &is[0]); err != nil {
			t.Error(err)
		}
	}
}

// TestReplacedFileIsLeftAlone: between the bind of a socket and what is done to its
// file, somebody exchanges the file, or the directory that it is in. Nothing is done
// to what is there then.
func TestReplacedFileIsLeftAlone(t *testing.T) {
	mode := os.FileMode(0o666)
	uses := map[string]func(fd *scmrights.FD, path string) error{
		"listener": func(fd *scmrights.FD, path string) error {
			return control(fd, func(n int) error {
				_, err := fileOwner{&mode, -1, -1}.afterBind(n, path)
				return err
			})
		},
		"listener without options": func(fd *scmrights.FD, path string) error {
			return control(fd, func(n int) error {
				_, err := fileOwner{nil, -1, -1}.afterBind(n, path)
				return err
			})
		},
		"adopted": func(fd *scmrights.FD, path string) error {
			spec, err := ParseSpec("a=unix://" + path + ",mode=0666")
			if err != nil {
				return err
			}
			return control(fd, func(n int) error {
				is, err := identify(n)
				if err != nil {
					return err
				}
				return is.own(n, spec)
			})
		},
		"control": func(fd *scmrights.FD, path string) error {
			_, _, err := SetFile(fd, path, mode, nil)
			return err
		},
	}
	attacks := map[string]func(t *testing.T, dir, victim string) error{
		"symbolic link": func(t *testing.T, dir, victim string) error {
			return errors.Join(os.Remove(dir+"/s"), os.Symlink(victim, dir+"/s"))
		},
		"directory": func(t *testing.T, dir, victim string) error {
			return errors.Join(os.Rename(dir, dir+"-away"), os.Symlink(filepath.Dir(victim), dir))
		},
	}
	for attack, exchange := range attacks {
		for use, do := range uses {
			for _, admin := range []bool{true, false} {
				t.Run(attack+" "+use+map[bool]string{true: "", false: " without CAP_NET_ADMIN"}[admin], func(t *testing.T) {
					fdtest.CheckLeaks(t)
					base := fdtest.SocketDir(t)
					dir, secret := base+"/d", base+"/secret"
					if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(secret, 0o700)); err != nil {
						t.Fatal(err)
					}
					_ = bound(t, secret+"/s")
					fd := bound(t, dir+"/s")
					if err := exchange(t, dir, secret+"/s"); err != nil {
						t.Fatal(err)
					}
					if file, _, err := findFile(secret + "/s"); err != nil {
						t.Fatal(err)
					} else if known, _ := unixSockets("", file); len(known) == 0 {
						t.Skip("sock_diag does not tell of the files of this filesystem")
					}
					if !admin {
						defer withoutNetAdmin(t)()
					}
					if err := do(fd, dir+"/s"); !errors.Is(err, unix.EADDRINUSE) {
						t.Errorf("got %v, want EADDRINUSE", err)
					}
					if st, err := os.Lstat(secret + "/s"); err != nil || st.Mode().Perm() != 0o600 {
						t.Errorf("the other socket's file: %v, %v", st, err)
					}
				})
			}
		}
	}
}

// TestSetFile: without CAP_NET_ADMIN, too, and a second name of the file is as good.
func TestSetFile(t *testing.T) {
	for _, admin := range []bool{true, false} {
		fdtest.CheckLeaks(t)
		path := fdtest.SocketDir(t) + "/s"
		fd := bound(t, path)
		if err := errors.Join(os.Link(path, path+"2"), os.Remove(path), os.Rename(path+"2", path)); err != nil {
			t.Fatal(err)
		}
		done := func() {}
		if !admin {
			done = withoutNetAdmin(t)
		}
		gid := os.Getgid()
		dev, ino, err := SetFile(fd, path, 0o640, &gid)
		done()
		var st unix.Stat_t
		if err := errors.Join(err, unix.Lstat(path, &st)); err != nil {
			t.Fatal(err)
		}
		if uint64(st.Dev) != dev || st.Ino != ino || st.Mode != unix.S_IFSOCK|0o640 {
			t.Errorf("got file %d:%d, mode %o, want %d:%d", dev, ino, st.Mode, st.Dev, st.Ino)
		}
	}
}

// TestExchangedDirectoryIsLeftAlone: where a socket's directory was exchanged with
// another one, neither a spare link is made there nor anything removed.
func TestExchangedDirectoryIsLeftAlone(t *testing.T) {
	fdtest.CheckLeaks(t)
	base := fdtest.SocketDir(t)
	dir, secret := base+"/d", base+"/secret"
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(secret, 0o700)); err != nil {
		t.Fatal(err)
	}
	_ = bound(t, secret+"/s")
	_ = bound(t, secret+"/.s.fdbroker") // the spare link of who serves there
	_ = bound(t, dir+"/s")
	file, _, err := findFile(dir + "/s")
	if err := errors.Join(err, os.Rename(dir, dir+"-away"), os.Symlink(secret, dir)); err != nil {
		t.Fatal(err)
	}
	file.keepSpare()
	if file.spare {
		t.Error("there is a spare link")
	}
	file.dropSpare()
	if err := file.remove(); err != nil {
		t.Error(err)
	}
	for _, path := range []string{secret + "/s", secret + "/.s.fdbroker"} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Nlink != 1 {
			t.Errorf("%s: %d links, %v", path, st.Nlink, err)
		}
	}
	left, err := os.ReadDir(secret)
	if err != nil || len(left) != 2 {
		t.Errorf("there is %v, %v", left, err)
	}
}
