package conn

import (
	"bytes"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Conn is one connection. Only the loop's goroutine uses it, except for Wake and Gone.
type Conn struct {
	Caller registry.Caller
	// OneCall says that the connection ends after one call, which must not go on: descriptors have run out.
	OneCall bool

	loop   *Loop
	raw    scmrights.Nonblocking
	number int32  // of the descriptor: epoll knows the connection by it
	events uint32 // what epoll is asked for; 0: the connection is not in epoll

	in       []byte          // calls that are not answered yet; nil as long as whole ones arrive
	fds      []*scmrights.FD // for the call that begins at in[fdsAt]
	fdsAt    int
	garbage  []*scmrights.FD // to be closed, which may block
	readable bool            // something may have arrived
	out      []byte          // what did not fit into the socket's buffer
	outFDs   []*scmrights.FD // borrowed, for the first byte of out
	unsent   func()          // is called if they are never sent
	parked   *Parked         // the call that goes on
	running  bool            // something runs in a goroutine: nothing else happens meanwhile
	closed   bool

	called       bool      // the first call is complete
	fdsUnread    bool      // the peer may not have read a reply with descriptors
	deferred     bool      // what is sent next belongs to a call that had to wait: its client may have gone
	replyUnread  bool      // the last reply was immediate, so the client has to read it
	unguarded    bool      // descriptors may have arrived that were not asked for: reads and closes may block
	window       bool      // the next call may carry a descriptor
	windowEnd    time.Time // when the kernel is told to refuse it; zero: it was, or there is no window
	deadline     time.Time
	deadlineKind deadlineKind
	place        int // in the loop's deadlines
}

// Parked is a call that goes on. Its functions are called by the loop's goroutine.
type Parked struct {
	// Step is called after each wake, once at first, and when Until has come. It sends what there is to
	// send, and calls Done once the call has ended.
	Step func() error
	// End is called once the call has ended, or the connection has, for which stopping says that the
	// broker stops. It may be nil.
	End func(stopping bool)
	// Until is when Step is to be called at the latest. Zero: there is no such time.
	Until time.Time
	// EndsOnInput says that the call ends with the next thing that the client sends.
	EndsOnInput bool
	// Patient clients may take any time to read what they are sent.
	Patient bool
}

type deadlineKind int

const (
	deadlineNone   deadlineKind = iota
	deadlineCall                // the call that is being received has to be complete
	deadlineFlush               // the peer has to take what it is sent
	deadlineUnread              // the peer has to read descriptors: a call is behind them
	deadlineStep                // of Parked.Until
	deadlineWindow              // the window for a descriptor ends
)

var _ registry.Link = (*Conn)(nil)

// Wake makes the loop look at what the connection waits for. It may be called by any goroutine.
func (c *Conn) Wake() { c.loop.queue.add(item{conn: c}) }

// Gone reports whether the peer has closed its end. It may be called by any goroutine.
func (c *Conn) Gone() bool { return peer.HungUp(c.raw) }

// ready is told by epoll that something has happened.
func (c *Conn) ready(events uint32) {
	const over = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	if events&(unix.EPOLLIN|over) != 0 {
		c.readable = true
	}
	if c.parked != nil && !c.parked.EndsOnInput && events&over != 0 {
		if events&unix.EPOLLERR != 0 && c.replyUnread {
			c.loop.cfg.Handler.Refused(c, ErrUnread)
		}
		c.close()
		return
	}
	c.advance()
}

// advance does what can be done for the connection now, and then says what it waits for. After a few steps
// others have their turn: its client may send calls without end.
func (c *Conn) advance() {
	for n := 0; !c.closed && !c.running; n++ {
		if n == stepsInTurn {
			c.Wake()
			return
		}
		wait, err := c.step()
		if err != nil {
			c.end(err)
			return
		}
		if wait != 0 {
			if c.await(wait); c.OneCall && !c.closed {
				c.finishOneCall()
			}
			return
		}
	}
}

// step does one thing. It returns the events to wait for if there is nothing to do.
func (c *Conn) step() (wait uint32, err error) {
	switch {
	case len(c.out) > 0:
		return c.flush()
	case len(c.garbage) > 0:
		c.closeGarbage()
		return 0, nil
	case c.parked != nil && c.parked.EndsOnInput && c.readable:
		c.Done()
		return 0, nil
	case c.parked != nil:
		return c.stepParked()
	}
	if i := bytes.IndexByte(c.in, 0); i >= 0 {
		if c.fdsUnread && !c.descriptorsRead() {
			return c.awaitUnread(c.in[:i])
		}
		return 0, c.nextCall(i)
	}
	if c.loop.stopping {
		return 0, errStopping
	}
	if !c.readable {
		c.awaitCall()
		return unix.EPOLLIN | unix.EPOLLRDHUP, nil
	}
	return 0, c.read()
}

// stepParked lets the parked call go on. While it does, the peer may hang up; what else it sends waits.
func (c *Conn) stepParked() (wait uint32, err error) {
	p := c.parked
	c.clearDeadline()
	c.deferred = true
	if err := p.Step(); err != nil || c.parked != p || c.running || len(c.out) > 0 {
		return 0, err
	}
	if c.loop.stopping {
		return 0, errStopping
	}
	if !p.Until.IsZero() {
		c.setDeadline(deadlineStep, p.Until)
	}
	if c.readable && !p.EndsOnInput {
		return unix.EPOLLRDHUP, nil
	}
	return unix.EPOLLIN | unix.EPOLLRDHUP, nil
}

// Park makes a call go on until [Conn.Done], or until the connection ends.
func (c *Conn) Park(p *Parked) { c.parked = p }

// Done ends the parked call.
func (c *Conn) Done() {
	p := c.parked
	c.parked = nil
	c.clearDeadline()
	if p != nil && p.End != nil {
		p.End(c.loop.stopping)
	}
}

// Run runs f in a goroutine, because it may block, and then, on the loop, what f returns. Nothing else
// happens to the connection meanwhile.
func (c *Conn) Run(f func() (then func() error)) {
	c.running = true
	c.clearDeadline()
	c.unwatch()
	go func() {
		then := f()
		c.loop.Post(func() { c.ran(then) })
	}()
}

func (c *Conn) ran(then func() error) {
	c.running = false
	if then != nil {
		if err := then(); err != nil {
			c.end(err)
			return
		}
	}
	c.advance()
}

// unwatch makes epoll tell of nothing: a peer that has hung up would be reported again and again.
func (c *Conn) unwatch() {
	if c.events != 0 {
		_ = c.loop.watch(c.raw.FD, unix.EPOLL_CTL_DEL, 0)
		c.events = 0
	}
}

// await makes epoll tell of events.
func (c *Conn) await(events uint32) {
	op := unix.EPOLL_CTL_MOD
	switch c.events {
	case events:
		return
	case 0:
		op = unix.EPOLL_CTL_ADD
	}
	if err := c.loop.watch(c.raw.FD, op, events); err != nil {
		c.close()
		return
	}
	c.events = events
}

// read reads what has arrived.
func (c *Conn) read() error {
	c.readable = false
	if c.window {
		c.readDescriptors()
		return nil
	}
	b := c.loop.in
	if c.unguarded {
		n, descriptors, err := c.raw.Peek(b)
		switch {
		case descriptors: // in these bytes, or behind them
			c.readDescriptors()
			return nil
		case err != nil:
			return c.readError(err)
		}
		b = b[:n]
	}
	n, _, err := c.raw.Recv(b, 0)
	if err != nil {
		return c.readError(err)
	}
	return c.received(b[:n], nil)
}

// readError returns nil if nothing has arrived.
func (c *Conn) readError(err error) error {
	switch {
	case errors.Is(err, scmrights.ErrWouldBlock):
		return nil
	case errors.Is(err, scmrights.ErrTooMany):
		return errUninvited
	}
	return err
}

// received adds bytes that have arrived. They end inside the send that carried fds, so these belong to
// the last call of which there is any byte.
func (c *Conn) received(b []byte, fds []*scmrights.FD) error {
	if len(c.in) == 0 && len(fds) == 0 && bytes.IndexByte(b, 0) == len(b)-1 {
		return c.call(b[:len(b)-1], nil) // as nearly every call arrives: there is nothing to keep
	}
	c.in = append(c.in, b...)
	if len(fds) > 0 {
		if len(c.fds) > 0 {
			c.fds = append(c.fds, fds...)
			return &protocol.MalformedError{Reason: "more descriptors than the 1 expected"}
		}
		c.fds, c.fdsAt = fds, bytes.LastIndexByte(c.in[:len(c.in)-1], 0)+1
	}
	return c.checkLength()
}

// checkLength refuses a call that is too long.
func (c *Conn) checkLength() error {
	n := bytes.IndexByte(c.in, 0)
	if n < 0 {
		n = len(c.in)
	}
	if n >= c.loop.cfg.MaxMessage {
		return &protocol.LimitError{Limit: "bytes in a message", Max: c.loop.cfg.MaxMessage}
	}
	return nil
}

// nextCall answers the call that ends at c.in[end].
func (c *Conn) nextCall(end int) error {
	m := c.in[:end]
	if c.in = c.in[end+1:]; len(c.in) == 0 {
		c.in = nil
	}
	var fds []*scmrights.FD
	if c.fdsAt <= 0 {
		fds, c.fds = c.fds, nil
	}
	c.fdsAt -= end + 1
	if err := c.checkLength(); err != nil {
		c.Discard(fds)
		return err
	}
	return c.call(m, fds)
}

// call has the handler answer m. It takes fds.
func (c *Conn) call(m []byte, fds []*scmrights.FD) error {
	if c.fdsUnread && !c.descriptorsRead() { // m stands in the loop's buffer
		c.in = append(append(c.in, m...), 0)
		return nil
	}
	c.called, c.deferred = true, false
	c.clearDeadline()
	if len(fds) > 0 && !c.window {
		c.Discard(fds)
		return errUninvited
	}
	c.closeWindow()
	return c.loop.cfg.Handler.Call(c, m, fds)
}

// awaitCall sets the deadline of the call that is being received, or of the window.
func (c *Conn) awaitCall() {
	switch {
	case c.called && len(c.in) == 0 && c.windowEnd.IsZero():
		c.clearDeadline()
	case c.called && len(c.in) == 0:
		c.setDeadline(deadlineWindow, c.windowEnd)
	case c.deadlineKind != deadlineCall && c.OneCall:
		c.setDeadline(deadlineCall, time.Now().Add(oneCallTime))
	case c.deadlineKind != deadlineCall:
		c.setDeadline(deadlineCall, time.Now().Add(c.loop.cfg.CallTimeout))
	}
}
