//go:build linux

package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// desk is where clients are received. Its goroutine has an epoll instance of its
// own, and serves by itself what nearly all of them want, with a few system
// calls and nothing started: a Get that can be granted at once. It keeps those who
// have been served, say nothing, or hold a grant. Whoever wants anything else gets
// a session, with a goroutine that may wait.
//
// The desk never waits for a client: it only reads what has arrived, and only sends
// what fits into an empty buffer.
type desk struct {
	server   *Server
	ctx      context.Context
	running  *sync.WaitGroup // sessions
	listener *scmrights.FD   // owned by Serve
	epoll    int
	wakeup   *scmrights.FD // an eventfd
	guarded  bool          // nobody can send descriptors to the broker

	guests  map[int32]*guest // by number of descriptor
	silent  guestList        // those who have to say something in time, the first to be late in front
	quiet   int              // turns since more than one connection may have waited
	paused  time.Time        // do not accept before; zero: go on
	backoff time.Duration
	in, out []byte
	events  []unix.EpollEvent

	woken woken
}

const (
	deskBuffer = 2048 // bytes of a call that the desk reads; longer ones are for sessions
	deskNames  = 4    // sockets of a reply that fits into any buffer
	crowd      = 8    // connections accepted in one turn, so that none waits for all the others
	lookAround = 16   // turns with one connection each after which to look for a crowd again
)

// newDesk returns a desk that is not open yet. The caller must close it.
func newDesk(s *Server) (*desk, error) {
	d := &desk{
		server: s, epoll: -1,
		guests: make(map[int32]*guest), backoff: backoffMin,
		in: make([]byte, min(deskBuffer, s.cfg.MaxMessage)), out: make([]byte, 0, deskBuffer), events: make([]unix.EpollEvent, 64),
	}
	var err error
	if d.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	n, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		d.close()
		return nil, os.NewSyscallError("eventfd", err)
	}
	d.wakeup = scmrights.NewFD(n)
	if err := d.watch(d.wakeup, unix.EPOLL_CTL_ADD, unix.EPOLLIN); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// open makes ln, which it borrows, what clients come to until ctx is done. Sessions
// are counted by running.
func (d *desk) open(ctx context.Context, ln *scmrights.FD, running *sync.WaitGroup) error {
	d.ctx, d.listener, d.running = ctx, ln, running
	_ = ln.Control(func(fd uintptr) {
		_ = unix.SetNonblock(int(fd), true) // or accept would wait, and everybody with it
		v, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS)
		d.guarded = err == nil && v == 0
	})
	return d.watch(ln, unix.EPOLL_CTL_ADD, unix.EPOLLIN)
}

func (d *desk) close() {
	if d.wakeup != nil {
		_ = d.wakeup.Close()
	}
	if d.epoll >= 0 {
		_ = unix.Close(d.epoll)
		d.epoll = -1
	}
}

// watch changes what the desk is told about fd.
func (d *desk) watch(fd *scmrights.FD, op int, events uint32) (err error) {
	cerr := fd.Control(func(n uintptr) {
		err = unix.EpollCtl(d.epoll, op, int(n), &unix.EpollEvent{Events: events, Fd: int32(n)})
	})
	return errors.Join(cerr, os.NewSyscallError("epoll_ctl", err))
}

// run serves until the context is done.
func (d *desk) run() error {
	defer d.sendAway()
	for d.ctx.Err() == nil { // the turn before may have read the interrupt that says so
		n, err := unix.EpollWait(d.epoll, d.events, d.patience())
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("epoll_wait", err)
		}
		if d.ctx.Err() != nil {
			break
		}
		d.begin()
		if err := d.turnTo(d.events[:max(n, 0)]); err != nil {
			return err
		}
		d.finish()
	}
	return ErrClosed
}

// turnTo does what events ask for. New connections come last: one of them may have
// the number of a guest who leaves in this turn.
func (d *desk) turnTo(events []unix.EpollEvent) error {
	arrivals := false
	for _, ev := range events {
		if g := d.guests[ev.Fd]; g != nil {
			g.ready(ev.Events)
			continue
		}
		switch {
		case d.is(d.wakeup, ev.Fd):
			d.rest()
		case d.is(d.listener, ev.Fd) && ev.Events&^unix.EPOLLIN != 0:
			return errors.New("the control socket does not listen any more")
		default:
			arrivals = true
		}
	}
	d.expire()
	if arrivals || !d.paused.IsZero() {
		return d.receive()
	}
	return nil
}

func (d *desk) is(fd *scmrights.FD, number int32) (same bool) {
	_ = fd.Control(func(n uintptr) { same = int32(n) == number })
	return same
}

// patience returns how many milliseconds may pass before the desk has to look
// again, or -1.
func (d *desk) patience() int {
	next := d.paused
	if g := d.silent.first; g != nil && (next.IsZero() || g.expires.Before(next)) {
		next = g.expires
	}
	if next.IsZero() {
		return -1
	}
	wait := min(max(time.Until(next), 0), time.Hour) // what epoll_wait takes ends at 24 days
	return int((wait + time.Millisecond - 1) / time.Millisecond)
}

// receive accepts a few connections. While they come one by one it accepts one a
// turn, which saves asking whether there is another.
func (d *desk) receive() error {
	if !d.paused.IsZero() {
		if time.Now().Before(d.paused) {
			return nil
		}
		d.paused = time.Time{}
		if err := d.watch(d.listener, unix.EPOLL_CTL_MOD, unix.EPOLLIN); err != nil {
			return err
		}
	}
	most := 1
	if d.quiet++; d.quiet >= lookAround {
		most = crowd
	}
	for range most {
		if d.ctx.Err() != nil {
			return nil // they are for the next broker
		}
		conn, number, err := scmrights.Accept(d.listener)
		switch {
		case err == nil:
			d.backoff = backoffMin
			d.welcome(conn, int32(number))
		case err == unix.EAGAIN || err == unix.EINTR:
			d.quiet = 0
			return nil
		case exhausted(err):
			return d.pause(err)
		default:
			return os.NewSyscallError("accept on the control socket", err)
		}
	}
	return nil
}

// pause stops accepting for a while.
func (d *desk) pause(err error) error {
	if err == unix.EMFILE {
		err = fmt.Errorf("%w; raise the limit (ulimit -n, LimitNOFILE=)", err)
	}
	d.server.sampled.Warn().Err(err).Int64("wait_ms", d.backoff.Milliseconds()).Msg("cannot accept for now")
	d.paused = time.Now().Add(d.backoff)
	d.backoff = min(2*d.backoff, backoffMax)
	return d.watch(d.listener, unix.EPOLL_CTL_MOD, 0)
}

// welcome takes conn and makes a guest of it, unless there are too many clients.
func (d *desk) welcome(conn scmrights.Nonblocking, number int32) {
	fd := conn.FD
	p, err := peerOf(conn)
	if err != nil {
		_ = fd.Close()
		return
	}
	g := &guest{client: client{server: d.server, rc: conn, peer: p}, desk: d, fd: fd, number: number, conn: conn}
	if err := d.server.admit(&g.client); err != nil {
		g.refuse("", err)
		_ = g.sendError(err) // it is disconnected in any case
		_ = fd.Close()
		return
	}
	d.guests[number] = g
	if !d.guarded {
		g.promote(nil) // a read may close descriptors, and that may block
		return
	}
	g.known = d.server.registry.processOf(p.pid)
	if g.read() { // as a rule the call is here already
		if err := d.watch(fd, unix.EPOLL_CTL_ADD, unix.EPOLLIN|unix.EPOLLRDHUP); err != nil {
			g.leave(endDisconnected)
			return
		}
		g.watched = true
		if !g.called {
			g.expires = time.Now().Add(d.server.cfg.CallTimeout)
			d.silent.add(g)
		}
	}
}

// sendAway ends all guests. Those who were granted something yet get it first: the next
// broker goes by it.
func (d *desk) sendAway() {
	d.tellWoken()
	for _, g := range d.guests {
		g.leave(endStop)
	}
}
