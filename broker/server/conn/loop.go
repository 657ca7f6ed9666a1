package conn

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/internal/closer"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Config says what a [Loop] serves. All fields must be set.
type Config struct {
	MaxClients       int // of which one in reservedShare are only for callers with privilege
	MaxClientsPerUID int // of a user without privilege
	MaxMessage       int // bytes
	CallTimeout      time.Duration
	Handler          Handler
	Descriptors      *registry.Descriptors
}

// Handler answers calls. Its methods are called by the loop's goroutine, and must not block.
type Handler interface {
	// Caller returns who is behind a new connection.
	Caller(c scmrights.Nonblocking, p peer.Credentials) registry.Caller
	// Call answers one call, without its NUL: it sends a reply, or parks the connection, or runs
	// something. An error ends the connection. Message is valid during the call only. Call takes fds.
	Call(c *Conn, message []byte, fds []*scmrights.FD) error
	// Refused is told why a connection is refused or ended, if the peer is to blame.
	Refused(c *Conn, err error)
	// Closed is told that the connection has ended; stopping says that the broker is stopping.
	Closed(c *Conn, stopping bool)
	// Paused is told that no connection can be accepted for a while.
	Paused(err error, wait time.Duration)
}

// Loop is the event loop. New makes it, Serve runs it once.
type Loop struct {
	cfg      Config
	epoll    int
	queue    queue
	closer   closer.Closer
	listener *scmrights.FD // owned by the caller of Serve, or taken from next
	next     atomic.Pointer[scmrights.FD]
	guarded  bool // the kernel lets nobody send descriptors unasked
	stopping bool

	conns     map[int32]*Conn // by number of descriptor
	clients   int             // that count, also while their connections are being closed
	perUID    map[uint32]int  // the same, by user
	deadlines deadlines       // what has to happen in time
	single    int             // turns in a row with one new connection
	paused    time.Time       // do not accept before; zero: accept
	backoff   time.Duration
	spare     *scmrights.FD // see reserve.go
	exhausted time.Time     // since when no connection could be accepted; zero: the last one was
	in        []byte        // what is read, to be used at once
	events    []unix.EpollEvent
}

const (
	readSize    = 4096
	crowd       = 8  // connections accepted in one turn, so that none waits for all the others
	stepsInTurn = 8  // of one connection
	lookAround  = 16 // turns with one connection each after which to look for a crowd again
	backoffMin  = 5 * time.Millisecond
	backoffMax  = time.Second
)

// New returns a loop. The caller must close it.
func New(cfg Config) (*Loop, error) {
	l := &Loop{
		cfg: cfg, epoll: -1, backoff: backoffMin,
		conns: make(map[int32]*Conn), perUID: make(map[uint32]int),
		in: make([]byte, min(readSize, cfg.MaxMessage)), events: make([]unix.EpollEvent, 64),
	}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err = l.queue.open(); err == nil {
		l.reserve()
		err = l.watch(l.queue.eventfd, unix.EPOLL_CTL_ADD, unix.EPOLLIN)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close closes what New has opened. Serve must have returned.
func (l *Loop) Close() {
	l.queue.close()
	l.closeSpare()
	if ln := l.next.Swap(nil); ln != nil {
		_ = ln.Close()
	}
	if l.epoll >= 0 {
		_ = unix.Close(l.epoll)
		l.epoll = -1
	}
}

// watch changes what the loop is told about fd.
func (l *Loop) watch(fd *scmrights.FD, op int, events uint32) (err error) {
	cerr := fd.Control(func(n uintptr) {
		err = unix.EpollCtl(l.epoll, op, int(n), &unix.EpollEvent{Events: events, Fd: int32(n)})
	})
	return errors.Join(cerr, os.NewSyscallError("epoll_ctl", err))
}

// Serve accepts on ln, which it borrows, and serves until Stop. Then it lets calls under way finish, for
// a while, and ends all connections. It reports how many it left behind, because what they run did not
// end: these change nothing any more once the caller has seen to that.
func (l *Loop) Serve(ln *scmrights.FD) (left int, err error) {
	if err := l.listen(ln); err != nil {
		return 0, err
	}
	for err == nil && !l.stopping {
		err = l.turn(l.patience())
	}
	left = l.finish()
	if l.listener != ln {
		_ = l.listener.Close()
	}
	return left, err
}

// turn waits for events, and does what they ask for. New connections come last, because one of them may
// have the number of a connection that ends in this turn.
func (l *Loop) turn(patience int) error {
	n, err := unix.EpollWait(l.epoll, l.events, patience)
	if err != nil && err != unix.EINTR {
		return os.NewSyscallError("epoll_wait", err)
	}
	l.queue.begin()
	arrivals := false
	for _, ev := range l.events[:max(n, 0)] {
		if c := l.conns[ev.Fd]; c != nil {
			c.ready(ev.Events)
			continue
		}
		switch {
		case l.is(l.queue.eventfd, ev.Fd):
			l.queue.reset()
		case l.is(l.listener, ev.Fd) && ev.Events&^unix.EPOLLIN != 0:
			return errors.New("the control socket no longer listens")
		default:
			arrivals = true
		}
	}
	l.runQueue()
	l.expire()
	if (arrivals || !l.paused.IsZero()) && !l.stopping {
		err = l.accept()
	} else {
		err = nil
	}
	l.runQueue() // what a new connection has changed comes before the wait
	l.queue.end()
	return err
}

func (l *Loop) is(fd *scmrights.FD, number int32) (same bool) {
	_ = fd.Control(func(n uintptr) { same = int32(n) == number })
	return same
}

// patience returns how many milliseconds may pass before the loop has to look again, or -1.
func (l *Loop) patience() int {
	next := l.paused
	if len(l.deadlines) > 0 && (next.IsZero() || l.deadlines[0].deadline.Before(next)) {
		next = l.deadlines[0].deadline
	}
	if next.IsZero() {
		return -1
	}
	wait := min(max(time.Until(next), 0), time.Hour) // what epoll_wait takes ends at 24 days
	return int((wait + time.Millisecond - 1) / time.Millisecond)
}

// accept accepts a few connections. While they come one by one it accepts one a turn, which saves asking
// whether there is another.
func (l *Loop) accept() error {
	if !l.paused.IsZero() {
		if time.Now().Before(l.paused) {
			return nil
		}
		l.paused = time.Time{}
		if err := l.watch(l.listener, unix.EPOLL_CTL_MOD, unix.EPOLLIN); err != nil {
			return err
		}
	}
	most := 1
	if l.single++; l.single >= lookAround {
		most = crowd
	}
	for range most {
		if l.stopping {
			return nil // they are for the next broker
		}
		raw, number, err := scmrights.Accept(l.listener)
		switch {
		case err == nil:
			l.backoff, l.exhausted = backoffMin, time.Time{}
			l.open(raw, int32(number))
		case err == unix.EAGAIN || err == unix.EINTR:
			l.single = 0
			return nil
		case err == unix.EMFILE && l.waitedLong():
			return l.acceptReserved(err)
		case exhausted(err):
			return l.pause(err)
		default:
			return os.NewSyscallError("accept on the control socket", err)
		}
	}
	return nil
}

// exhausted reports whether err passes by itself.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) ||
		errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ECONNABORTED)
}

// waitedLong reports whether no connection could be accepted for so long that their clients should be told.
func (l *Loop) waitedLong() bool {
	if l.exhausted.IsZero() {
		l.exhausted = time.Now()
	}
	return time.Since(l.exhausted) >= queueTime
}

// pause stops accepting for a while, and longer each time.
func (l *Loop) pause(err error) error {
	wait := l.backoff
	l.backoff = min(2*l.backoff, backoffMax)
	return l.pauseFor(err, wait)
}

func (l *Loop) pauseFor(err error, wait time.Duration) error {
	l.cfg.Handler.Paused(err, wait)
	l.paused = time.Now().Add(wait)
	return l.watch(l.listener, unix.EPOLL_CTL_MOD, 0)
}

// open takes an accepted connection, and refuses it if there are too many.
func (l *Loop) open(raw scmrights.Nonblocking, number int32) {
	p, err := peer.Of(raw)
	if err != nil {
		_ = raw.FD.Close()
		return
	}
	c := &Conn{loop: l, raw: raw, number: number, unguarded: !l.guarded, readable: true}
	c.Caller = l.cfg.Handler.Caller(raw, p)
	if err := l.admit(&c.Caller); err != nil {
		l.cfg.Handler.Refused(c, err)
		c.sendError(err)
		c.hangUp(nil)
		return
	}
	l.conns[number] = c
	c.advance() // usually the call is here already
}

// One in reservedShare connections is reserved for root and the broker's user, so that other users,
// however many, cannot lock them out.
const reservedShare = 16

// admit counts a client, or says which limit is reached.
func (l *Loop) admit(c *registry.Caller) error {
	most := l.cfg.MaxClients
	if !c.Privileged {
		most -= most / reservedShare
		if err := l.cfg.Descriptors.Check(); err != nil {
			return err
		}
	}
	if l.clients >= most {
		return &protocol.LimitError{Limit: "clients", Max: most}
	}
	if share := l.cfg.Descriptors.Share(l.cfg.MaxClientsPerUID); !c.Privileged && l.perUID[c.Peer.UID] >= share {
		return &protocol.LimitError{Limit: "clients of one user", Max: share}
	}
	l.count(c)
	return nil
}

func (l *Loop) count(c *registry.Caller) {
	l.clients++
	l.perUID[c.Peer.UID]++
	l.cfg.Descriptors.Add(1)
}

// dismiss counts a client no more.
func (l *Loop) dismiss(c *registry.Caller) {
	l.clients--
	l.reserve() // if it is free again, this comes first
	l.cfg.Descriptors.Add(-1)
	if l.perUID[c.Peer.UID]--; l.perUID[c.Peer.UID] == 0 {
		delete(l.perUID, c.Peer.UID)
	}
}
