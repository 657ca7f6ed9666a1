//go:build linux

package graceful

import (
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestFrames: the ends of frames are found, however they are written.
func TestFrames(t *testing.T) {
	var all []byte
	ends := map[int]bool{}
	for i, n := range []int{6, 0, 1, 300, 70000, 0, 4} {
		kind := byte(settingsFrame)
		if i > 0 {
			kind = byte(i % 3)
		}
		all = append(all, byte(n>>16), byte(n>>8), byte(n), kind, 0, 0, 0, 0, byte(i))
		all = append(all, make([]byte, n)...)
		ends[len(all)] = true
	}
	for range 200 {
		var f frames
		for at := 0; at < len(all); {
			n := min(1+rand.IntN(1+rand.IntN(20000)), len(all)-at)
			f.wrote(all[at : at+n])
			if at += n; f.between() != ends[at] {
				t.Fatalf("at byte %d: between=%v", at, f.between())
			}
		}
	}
	var f frames
	f.wrote([]byte("HTTP/1.1 200 OK\r\n"))
	if !f.other || f.between() {
		t.Error("HTTP/1.1 was taken for frames")
	}
}

// TestConnsForget: closed connections are not kept for ever.
func TestConnsForget(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var s conns
	for i := range 1000 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		s.add(c)
		if i >= 10 {
			_ = c.Close()
		}
		if len(s.all) > minSweep {
			t.Fatalf("%d connections are kept after %d", len(s.all), i)
		}
	}
	a, b := net.Pipe() // has no socket
	defer a.Close()
	defer b.Close()
	s.add(a)
	if n := s.len(); n != 10 {
		t.Errorf("%d are open, want 10", n)
	}
	if n := s.close(); n != 10 || s.len() != 0 {
		t.Errorf("%d were closed, and %d are left", n, s.len())
	}
}

// TestNobodyElseServesHTTP: the client library and the commands do not come with net/http.
func TestNobodyElseServesHTTP(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil && os.Getenv(fdtest.ProgramsEnv) != "" {
		t.Skip(err)
	}
	const module = "github.com/fdbroker/fdbroker/"
	out, err := exec.Command("go", "list", "-deps", module+"broker", module+"cmd/fdbroker", module+"cmd/fdclient").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if is := strings.TrimSpace(line); is == "net/http" || is == module+"broker/graceful" {
			t.Errorf("%s is imported", is)
		}
	}
}
