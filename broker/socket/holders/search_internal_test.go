package holders

import (
	"os"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// TestMarkOfAnother: IsBroker trusts a mark that root or this user has made.
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
	if !IsBroker(os.Getpid()) {
		t.Error("this user's mark is not trusted")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to make another user's mark")
	}
	if err := unix.Fchown(mark, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if IsBroker(os.Getpid()) {
		t.Error("another user's mark is trusted")
	}
}
