package notify_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/notify"
	"golang.org/x/sys/unix"
)

// TestStores: a manager stores descriptors if it keeps the one that it is given, and not if it closes that, or answers
// too late. Nothing stays in its store.
func TestStores(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, c := range []struct {
		name  string
		keeps func(text string) bool // whether the manager keeps the descriptor of a message
		limit time.Duration
		want  bool
	}{
		{"it keeps", func(text string) bool { return strings.HasPrefix(text, "FDSTORE=1\n") }, 20 * time.Second, true},
		{"it closes", func(string) bool { return false }, 20 * time.Second, false},
		{"it leaks", func(string) bool { return true }, 10 * time.Millisecond, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			address := fdtest.SocketDir(t) + "/n"
			conn := manager(t, address)
			kept, done := make(map[string]int), make(chan struct{})
			go func() {
				defer close(done)
				for {
					text, fds := receiveDescriptors(conn)
					if text == "" || text == "end" {
						return
					}
					for _, fd := range fds {
						if c.keeps(text) {
							kept[text] = fd
						} else {
							_ = unix.Close(fd)
						}
					}
					if name, ok := strings.CutPrefix(text, "FDSTOREREMOVE=1\n"); ok {
						_ = unix.Close(kept["FDSTORE=1\n"+name])
						delete(kept, "FDSTORE=1\n"+name)
					}
				}
			}()
			if got := notify.Stores(address, c.limit); got != c.want {
				t.Errorf("got %t", got)
			}
			t.Setenv("NOTIFY_SOCKET", address)
			m, err := notify.FromEnvironment()
			if err == nil {
				err = m.Tell("end")
			}
			if err != nil {
				t.Fatal(err)
			}
			<-done
			if c.want && len(kept) > 0 {
				t.Errorf("it keeps %v", kept)
			}
			for _, fd := range kept {
				_ = unix.Close(fd)
			}
		})
	}
	for _, address := range []string{"", "/no/such", "@fdbroker-no-such"} {
		if notify.Stores(address, time.Hour) {
			t.Errorf("%q stores", address)
		}
	}
}

// receiveDescriptors returns the next message and its descriptors, or nothing at the end.
func receiveDescriptors(c *net.UnixConn) (text string, fds []int) {
	b, oob := make([]byte, 4096), make([]byte, 64)
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return "", nil
	}
	if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
		fds, _ = unix.ParseUnixRights(&messages[0])
	}
	return string(b[:n]), fds
}
