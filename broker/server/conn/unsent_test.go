package conn

import (
	"errors"
	"io"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// TestUnsent: descriptors for which there is no room, and whose client goes, have not been handed out. If it reads, they
// have.
func TestUnsent(t *testing.T) {
	for _, reads := range []bool{false, true} {
		fdtest.CheckLeaks(t)
		r := serve(t, Config{}, false)
		c := r.dial()
		c.say("echo a")
		c.answers("a")
		n, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		fd := scmrights.NewFD(n)
		unsent, waits, size := 0, false, 0
		r.on(func() {
			for _, conn := range r.loop.conns {
				var err error
				for !errors.Is(err, scmrights.ErrWouldBlock) {
					n := 0
					n, err = conn.raw.Send(make([]byte, 1<<10))
					size += n
				}
				if err := conn.Send([]byte("b\x00"), fd); err != nil {
					t.Error(err)
				}
				if waits = conn.Waits(); waits {
					conn.IfUnsent(func() { r.count(func() { unsent++ }) })
				}
				conn.Wake()
			}
		})
		if !waits {
			t.Fatal("there was room")
		}
		if reads {
			if _, err := io.ReadFull(c.in, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			c.answers("b")
		}
		_ = c.Close()
		r.counted("connections that have ended", 1, func() int { return r.closed })
		r.counted("descriptors that were never sent", map[bool]int{false: 1, true: 0}[reads], func() int { return unsent })
		r.stop()
		_ = fd.Close()
	}
}
