//go:build linux

package socket

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestMarkOfAnother: a mark is believed if root has made it, or this user.
func TestMarkOfAnother(t *testing.T) {
	fdtest.CheckLeaks(t)
	if hasMark(os.Getpid()) {
		t.Fatal("there is a mark already")
	}
	mark, err := unix.MemfdCreate(BrokerMark, unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(mark)
	if !isBroker(os.Getpid()) {
		t.Error("this user's mark is not believed")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to make another user's mark")
	}
	if err := unix.Fchown(mark, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if isBroker(os.Getpid()) {
		t.Error("another user's mark is believed")
	}
}
