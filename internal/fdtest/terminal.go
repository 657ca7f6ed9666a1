package fdtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Terminal returns a terminal and a function that closes it and returns the text that was
// written to it, at most some 4000 bytes. The test's end closes it too.
func Terminal(t testing.TB) (tty *os.File, text func() string) {
	t.Helper()
	master, tty := openTerminal(t, 0) // stays out of the poller, so that reading it ends by itself
	return tty, func() string {
		_ = tty.Close()
		all, _ := io.ReadAll(master) // until EIO: no process has the terminal open any more
		return string(all)
	}
}

// Keyboard returns a terminal with the other end of it: bytes written to keys are
// typed, and bytes read from there were shown. The test's end closes both.
func Keyboard(t testing.TB) (keys, tty *os.File) {
	t.Helper()
	return openTerminal(t, unix.O_NONBLOCK)
}

func openTerminal(t testing.TB, flags int) (master, tty *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { _ = master.Close() })
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)); err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return master, tty
}
