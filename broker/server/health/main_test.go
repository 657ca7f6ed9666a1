package health

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"rest": restHelper})
}

// reports collects the reports of a monitor, a line each.
type reports struct {
	mu    sync.Mutex
	lines []string
}

func (r *reports) add(s *socket.Socket, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, s.Name()+": "+fmt.Sprintf(format, args...))
}

func (r *reports) Repaired(s *socket.Socket, what string, count int) {
	r.add(s, "repaired %d %s", count, what)
}

func (r *reports) Faulty(s *socket.Socket, f Fault) {
	r.add(s, "faulty %d %v %s", f.Attempts, f.Err, f.Who)
}

func (r *reports) ModeChanged(s *socket.Socket) { r.add(s, "mode") }

func (r *reports) Stalled(s *socket.Socket, lasted time.Duration) {
	r.add(s, "stalled %v", lasted.Truncate(time.Second))
}

func (r *reports) Served(s *socket.Socket, lasted time.Duration) {
	r.add(s, "served %v", lasted.Truncate(time.Second))
}

func (r *reports) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

// those returns the lines that begin so.
func (r *reports) those(prefix string) (found []string) {
	for _, line := range r.all() {
		if strings.HasPrefix(line, prefix) {
			found = append(found, line)
		}
	}
	return found
}

// await waits for n lines that begin so, and checks that there are no more yet.
func (r *reports) await(t *testing.T, n int, prefix string) {
	t.Helper()
	fdtest.Eventually(t, fmt.Sprintf("%d reports of %q", n, prefix), func() bool { return len(r.those(prefix)) >= n })
	if got := r.those(prefix); len(got) != n {
		t.Errorf("got %d reports, want %d: %q", len(got), n, got)
	}
}

// open opens a socket, which the test's end closes.
func open(t testing.TB, text string) *socket.Socket {
	t.Helper()
	spec, err := spec.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	s, err := socket.Open(spec, socket.OpenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// do changes a socket as a worker could.
func do(t testing.TB, s *socket.Socket, f func(fd int) error) {
	t.Helper()
	var err error
	if cerr := s.FD().Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil || err != nil && err != unix.ENOTCONN {
		t.Fatal(cerr, err)
	}
}

func shutDown(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) }

func listenFive(fd int) error { return unix.Listen(fd, 5) }

func limitOf(t *testing.T, s *socket.Socket) int {
	t.Helper()
	f, err := s.Figures()
	if err != nil {
		t.Fatal(err)
	}
	return int(f.Limit)
}
