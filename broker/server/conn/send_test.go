package conn

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// large is more than the buffer of a socket has room for.
const large = 4 << 20

// slowly reads the rest of a reply of size bytes in small parts, with a pause before each.
func (c *client) slowly(size int, pause time.Duration) {
	c.t.Helper()
	b := make([]byte, 1<<16)
	for read := 0; read < size; {
		time.Sleep(pause)
		n, err := c.in.Read(b[:min(len(b), size-read)])
		if err != nil {
			c.t.Fatalf("%d bytes of %d: %v", read, size, err)
		}
		read += n
		text := string(b[:n])
		if read == size {
			if !strings.HasSuffix(text, "\x00") {
				c.t.Fatal("the reply does not end")
			}
			text = text[:n-1]
		}
		if strings.Trim(text, "x") != "" {
			c.t.Fatalf("the reply is damaged before byte %d", read)
		}
	}
}

// TestSlowReader: a client that takes longer than CallTimeout for a large reply gets all of it, as long as it
// goes on reading. The calls behind it are answered, in order.
func TestSlowReader(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := serve(t, Config{CallTimeout: 2 * timeout}, true)
	c, other := r.dial(), r.dial()
	other.alive()
	c.say("big 4194304", "echo 1", "big 4194304", "echo 2")
	began := time.Now()
	c.slowly(large, timeout/20)
	if took := time.Since(began); took < 3*timeout {
		t.Errorf("it was no slow reader: %v", took)
	}
	other.alive()
	c.answers("1")
	c.slowly(large, 0)
	c.answers("2")
	c.alive()
	r.count(func() {
		if len(r.refused) > 0 {
			t.Errorf("refused: %v", r.refused)
		}
	})
}

// TestReaderStops: a client that stops reading is given up after CallTimeout, and holds up no other one meanwhile.
// A client that may take any time is not.
func TestReaderStops(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := serve(t, Config{CallTimeout: timeout}, true)
	stops, patient, other := r.dial(), r.dial(), r.dial()
	other.alive()
	patient.say("patient 4194304")
	stops.say("big 4194304", "echo 1")
	began := time.Now()
	other.alive()
	r.counted("connection is given up", 1, func() int { return r.closed })
	if took := time.Since(began); took < timeout {
		t.Errorf("it was given up after %v", took)
	}
	r.count(func() {
		if len(r.refused) != 1 || !errors.Is(r.refused[0], os.ErrDeadlineExceeded) {
			t.Errorf("refused: %v", r.refused)
		}
	})
	got := 0
	for b := make([]byte, 1<<16); ; {
		n, err := stops.in.Read(b)
		if got += n; err != nil {
			break
		}
	}
	if got == 0 || got >= large {
		t.Errorf("it was sent %d bytes", got)
	}
	time.Sleep(timeout) // more than a client that reads nothing may take
	patient.slowly(large, 0)
	r.release()
	patient.alive()
	other.alive()
}

// TestReaderStopsAsTheLoopDoes: a client that does not read does not hold up the end of the loop.
func TestReaderStopsAsTheLoopDoes(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := serve(t, Config{}, true)
	stops, patient := r.dial(), r.dial()
	stops.say("big 4194304")
	patient.say("patient 4194304")
	fdtest.Eventually(t, "both are sent something", func() bool { return buffered(t, stops) > 0 && buffered(t, patient) > 0 })
	r.stop()
	if r.left != 0 || r.closed != 2 || len(r.refused) > 0 {
		t.Errorf("%d connections left, %d closed, refused: %v", r.left, r.closed, r.refused)
	}
}

// buffered returns how many bytes have arrived at a client.
func buffered(t testing.TB, c *client) (n int) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = rc.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	return n
}
