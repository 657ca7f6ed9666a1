//go:build linux

package supervisor

import (
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// drop has a goroutine drop the first datagram, with the descriptors that were sent along.
// That may take for ever; until it is over the poller does not tell of r.
func (r *readiness) drop() {
	r.mu.Lock()
	r.dropping = true
	r.mu.Unlock()
	_ = r.poller.mute(r.fd, r.what)
	go r.dropFirst() // nobody can wait for that
}

func (r *readiness) dropFirst() {
	_ = r.takeSlowly()
	r.mu.Lock()
	mine := r.closed
	if !mine {
		r.dropping = false
		_ = r.poller.unmute(r.fd, r.what)
	}
	r.mu.Unlock()
	if mine {
		r.drain()
	}
}

// taken reports whether a goroutine has r.
func (r *readiness) taken() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropping
}

// shutdown ends that anybody can send to r. What has come by then can be read.
func (r *readiness) shutdown() {
	if r.shut {
		return
	}
	r.shut = true
	if r.poller != nil {
		_ = r.poller.remove(r.fd)
	}
	_ = unix.Shutdown(r.fd, unix.SHUT_RD)
}

// close closes r, without waiting for anybody: where a goroutine drops what has come, or
// is needed for that, the socket is its to close. It may be called once.
func (r *readiness) close() {
	r.shutdown()
	r.mu.Lock()
	r.closed = true
	theirs := r.dropping
	r.mu.Unlock()
	if theirs {
		return
	}
	if _, _, _, err := r.peek(make([]byte, 1), nil); err == unix.EAGAIN {
		_ = unix.Close(r.fd) // with nothing in it
		return
	}
	go r.drain()
}

// drain drops all that has come, and closes r, which was shut: so that nothing is left
// for whoever closes it last, which may be a worker that is just being started.
func (r *readiness) drain() {
	for r.takeSlowly() == nil {
	}
	_ = unix.Close(r.fd)
}

// takeSlowly takes the first datagram off, where that may take a while. A socket with
// SO_LINGER waits no longer when the thread gets a signal.
func (r *readiness) takeSlowly() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	over := make(chan struct{})
	defer close(over)
	go nudge(unix.Gettid(), r.nudge, over)
	return r.take()
}

// nudge sends a thread of ours a signal after that time, and again, ever more rarely,
// until it is over. SIGURG is what the runtime sends its threads, too: it does no harm.
func nudge(thread int, after time.Duration, over <-chan struct{}) {
	for ; ; after = max(after, min(2*after, time.Second)) {
		select {
		case <-over:
			return
		case <-time.After(after):
			_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
		}
	}
}
