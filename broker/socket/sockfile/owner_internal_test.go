package sockfile

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
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

// setOwner is Give as the control socket uses it.
func setOwner(fd *scmrights.FD, path string, o Owner) (id FileID, err error) {
	err = sockdiag.Control(fd, func(n int) error {
		file, err := o.Give(n, path, true)
		if file != nil {
			id = file.id
		}
		return err
	})
	return id, err
}

// TestReplacedFileIsLeftAlone: after the bind of a socket, another process exchanges its file, or the directory of
// that. The file that is there then stays as it is.
func TestReplacedFileIsLeftAlone(t *testing.T) {
	mode := os.FileMode(0o666)
	uses := map[string]func(fd *scmrights.FD, path string) error{
		"listener": func(fd *scmrights.FD, path string) error {
			return sockdiag.Control(fd, func(n int) error {
				_, err := Owner{&mode, -1, -1}.Give(n, path, true)
				return err
			})
		},
		"listener without options": func(fd *scmrights.FD, path string) error {
			return sockdiag.Control(fd, func(n int) error {
				_, err := Owner{nil, -1, -1}.Give(n, path, true)
				return err
			})
		},
		"adopted": func(fd *scmrights.FD, path string) error {
			return sockdiag.Control(fd, func(n int) error {
				_, err := Owner{&mode, -1, -1}.Give(n, path, false)
				return err
			})
		},
		"control": func(fd *scmrights.FD, path string) error {
			_, err := setOwner(fd, path, Owner{&mode, -1, -1})
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
					if file, err := Find(secret + "/s"); err != nil {
						t.Fatal(err)
					} else if known, _ := sockdiag.Unix("", file.ID()); len(known) == 0 {
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

// TestSetOwner: it works without CAP_NET_ADMIN, too, and by a second name of the file.
func TestSetOwner(t *testing.T) {
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
		mode := os.FileMode(0o640)
		id, err := setOwner(fd, path, Owner{&mode, -1, os.Getgid()})
		done()
		var st unix.Stat_t
		if err := errors.Join(err, unix.Lstat(path, &st)); err != nil {
			t.Fatal(err)
		}
		if IDOf(path) != id || st.Mode != unix.S_IFSOCK|0o640 {
			t.Errorf("got file %v, mode %o, want %v", id, st.Mode, IDOf(path))
		}
	}
}

// TestExchangedDirectoryIsLeftAlone: if a socket's directory was exchanged for another one, no backup link is made
// there, and no file removed.
func TestExchangedDirectoryIsLeftAlone(t *testing.T) {
	fdtest.CheckLeaks(t)
	base := fdtest.SocketDir(t)
	dir, secret := base+"/d", base+"/secret"
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(secret, 0o700)); err != nil {
		t.Fatal(err)
	}
	_ = bound(t, secret+"/s")
	_ = bound(t, secret+"/.s.fdbroker") // the backup link of the socket there
	_ = bound(t, dir+"/s")
	file, err := Find(dir + "/s")
	if err := errors.Join(err, os.Rename(dir, dir+"-away"), os.Symlink(secret, dir)); err != nil {
		t.Fatal(err)
	}
	file.KeepBackup()
	if file.HasBackup() {
		t.Error("there is a backup link")
	}
	if err := file.Remove(); err != nil {
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
