package fdtest

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// LockAs makes the file path of a user, and keeps it locked until unlock or the test's end.
func LockAs(t testing.TB, path string, uid int) (unlock func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	unlock = func() { _ = f.Close() }
	t.Cleanup(unlock)
	if err := errors.Join(f.Chown(uid, uid), unix.Flock(int(f.Fd()), unix.LOCK_EX)); err != nil {
		t.Fatal(err)
	}
	return unlock
}
