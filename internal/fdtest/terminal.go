package fdtest

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"unsafe"
)

// Terminal returns a terminal and a function that closes it and returns what was
// written to it, at most some 4000 bytes. The test's end closes it too.
func Terminal(t testing.TB) (tty *os.File, text func() string) {
	t.Helper()
	master, tty := openTerminal(t, 0) // stays out of the poller, so that reading it ends by itself
	return tty, func() string {
		_ = tty.Close()
		var all []byte
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			all = append(all, buf[:n]...)
			if err != nil { // EIO: nobody has the terminal open any more
				return string(all)
			}
		}
	}
}

// Keyboard returns a terminal with the other end of it: what is written to keys is
// typed, and what is read from there was shown. The test's end closes both.
func Keyboard(t testing.TB) (keys, tty *os.File) {
	t.Helper()
	return openTerminal(t, syscall.O_NONBLOCK)
}

func openTerminal(t testing.TB, flags int) (master, tty *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|flags, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	var unlocked, number int32
	ioctl(t, master, syscall.TIOCSPTLCK, &unlocked)
	ioctl(t, master, syscall.TIOCGPTN, &number)
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return master, tty
}

func ioctl(t testing.TB, f *os.File, request uintptr, arg *int32) {
	t.Helper()
	rc, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = rc.Control(func(fd uintptr) {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(arg))); errno != 0 {
			t.Fatal(os.NewSyscallError("ioctl", errno))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
