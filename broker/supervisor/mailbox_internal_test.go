package supervisor

import (
	"os"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/closer"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// sender returns a function that sends r a datagram with descriptors, and reports whether
// r's queue had room for it.
func sender(t *testing.T, r *mailbox) func(text string, fds ...int) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return func(text string, fds ...int) bool {
		t.Helper()
		var oob []byte
		if len(fds) > 0 {
			oob = unix.UnixRights(fds...)
		}
		err := unix.Sendmsg(fd, []byte(text), oob, &unix.SockaddrUnix{Name: r.address}, 0)
		if err != nil && err != unix.EAGAIN && err != unix.EPIPE {
			t.Fatal(err)
		}
		return err == nil
	}
}

// watched returns a socket that a poller watches.
func watched(t *testing.T) *mailbox {
	t.Helper()
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	r, err := newMailbox("", new(closer.Closer), 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.watch(p, readyOf(1, fromNotify)); err != nil {
		t.Fatal(err)
	}
	_ = r.fd.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 1) // as before Linux 6.16
	})
	return r
}

// TestReadBound: a read of a flood ends, and a socket that was shut down is read to its end.
func TestReadBound(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := watched(t)
	send := sender(t, r)
	for range maxDatagrams {
		if !send("x") {
			t.Skip("the kernel's net.unix.max_dgram_qlen is less than one read takes")
		}
	}
	if !send("READY=1") {
		t.Skip("the kernel's net.unix.max_dgram_qlen is less than one read takes")
	}
	if saidReady(r, os.Getpid()) {
		t.Error("one read took too much")
	}
	if !saidReady(r, os.Getpid()) {
		t.Error("the rest was not read")
	}
	for range maxDatagrams {
		send("x")
	}
	send("READY=1")
	r.shutdown()
	if send("x") {
		t.Error("something can be sent to a socket that was shut down")
	}
	if !saidReady(r, os.Getpid()) {
		t.Error("what had come when the socket was shut down was not read")
	}
	r.close()
}

// TestReadWithDescriptors: a datagram with descriptors counts, its descriptors are closed,
// and the poller reports the next datagram.
func TestReadWithDescriptors(t *testing.T) {
	fdtest.CheckLeaks(t)
	for name, end := range map[string]func(r *mailbox, send func(string, ...int) bool){
		"read": func(r *mailbox, send func(string, ...int) bool) {
			if !saidReady(r, os.Getpid()) {
				t.Error("READY=1 was not read")
			}
			fdtest.Eventually(t, "it is dropped", func() bool { return !r.closer.Busy(r) })
			send("x")
			select {
			case batch := <-r.poller.batches:
				if len(batch) != 1 || batch[0] != r.id {
					t.Errorf("the poller reports %v", batch)
				}
				r.poller.next <- struct{}{}
			case <-time.After(20 * time.Second):
				t.Error("the poller does not report what has come")
			}
			r.close()
		},
		"closed": func(r *mailbox, send func(string, ...int) bool) { r.close() },
		"read and closed": func(r *mailbox, send func(string, ...int) bool) {
			saidReady(r, os.Getpid())
			r.close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var ends [2]int
			if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			reader := os.NewFile(uintptr(ends[0]), "reader")
			defer reader.Close()
			r := watched(t)
			send := sender(t, r)
			send("READY=1", ends[1], ends[1])
			_ = unix.Close(ends[1])
			end(r, send)
			if n, err := reader.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("read %d, %v from a pipe without a writer", n, err)
			}
		})
	}
}
