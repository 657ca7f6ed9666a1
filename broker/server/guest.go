//go:build linux

package server

import (
	"bytes"
	"errors"
	"os"
	"time"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// guest is a connection that the desk looks after. Its goroutine alone uses it;
// others may wake it, and ask whether it has gone, as long as it has a grant.
type guest struct {
	client
	desk    *desk
	fd      *scmrights.FD
	number  int32 // of fd: what epoll knows it by
	conn    scmrights.Nonblocking
	known   *grant // of the process with the peer's pid, when the connection was accepted
	held    *grant // lasts as long as the connection, and the peer is told what becomes of it
	asked   *asked // nil unless the peer waits for a grant
	watched bool   // epoll knows it
	called  bool   // the first call is complete
	unread  bool   // the peer may not have read a reply with descriptors yet
	deaf    bool   // what the peer sends has to wait until the grant ends

	expires    time.Time
	prev, next *guest // in the desk's list of the silent
}

func (g *guest) gone() bool { return hungUp(g.rc) }

// ready does what events ask for.
func (g *guest) ready(events uint32) {
	switch {
	case g.held == nil && g.asked == nil:
		g.read()
	case events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0:
		if events&unix.EPOLLERR != 0 && g.owing {
			g.refuse("", errUnread)
		}
		g.leave(endDisconnected)
	case !g.deaf: // calls behind one that goes on are answered when that ends
		g.deaf = true
		_ = g.desk.watch(g.fd, unix.EPOLL_CTL_MOD, unix.EPOLLRDHUP)
	}
}

// read reads what has arrived, and answers it. It returns whether the guest stays.
func (g *guest) read() (stays bool) {
	n, err := g.conn.Recv(g.desk.in)
	switch {
	case err == nil:
		return g.answer(g.desk.in[:n])
	case errors.Is(err, scmrights.ErrWouldBlock):
		return true
	case errors.Is(err, scmrights.ErrTooMany):
		err := &protocol.MalformedError{Reason: "descriptors that nobody asked for"}
		g.refuse("", err)
		_ = g.sendError(err) // it is disconnected in any case
	case errors.Is(err, unix.ECONNRESET) && g.owing:
		g.refuse("", errUnread)
	}
	g.leave(endDisconnected)
	return false
}

// answer answers b where it is one Get that can be granted at once, or that may wait
// and be told what becomes of it. The rest is left to a session. It returns whether the
// guest stays.
func (g *guest) answer(b []byte) (stays bool) {
	if i := bytes.IndexByte(b, 0); i < 0 || i != len(b)-1 {
		return g.promote(b)
	}
	g.waited = false
	p, more, ok := protocol.DecodeGetCall(b[:len(b)-1])
	if !ok || len(p.Names) > deskNames || g.checkNames(p.Names) != nil {
		return g.promote(b)
	}
	if g.unread {
		if unread, err := g.conn.Unread(); err != nil || unread {
			return g.promote(b)
		}
		g.unread = false
	}
	q, err := g.request(&p, g, more)
	if err != nil || !more && !g.follow(q) {
		return g.promote(b)
	}
	if more && p.Wait {
		return g.await(q, b)
	}
	g.server.locked(func() { g.server.registry.askNow(q) })
	if q.process != nil && q.process.pidfd != nil { // no grant has taken it
		_ = q.process.pidfd.Close()
	}
	if q.grant == nil {
		return g.promote(b) // it has to wait, or to be told why not
	}
	g.becomeCalled()
	return g.hand(q, b)
}

// follow finds the process behind the guest. Most have a grant already, by which
// they are known: a connection that was accepted while the process of a grant
// had the peer's pid is that process's, for as long as it has not exited. It
// cannot be from an earlier process of that pid, since it would have been accepted
// before the one that the grant was asked for on: the queue keeps its order.
func (g *guest) follow(q *request) bool {
	if k := g.known; k != nil && !exited(k.pidfd) {
		q.process = &process{id: k.process}
		return true
	}
	if g.peer.pid == 0 {
		return false
	}
	p, err := processOf(g.rc, g.peer, g.server.registry.lifetimes.pidfs)
	if err != nil {
		return false
	}
	if exited(p.pidfd) {
		_ = p.pidfd.Close()
		return false
	}
	q.process = &p
	return true
}

// hand sends what q was granted, which b asked for. It returns whether the guest
// stays.
func (g *guest) hand(q *request, b []byte) (stays bool) {
	reply := protocol.GetReply{Grant: q.grant.id, Sockets: make([]protocol.Socket, len(q.sockets))}
	var fds [deskNames]*scmrights.FD
	for i, sock := range q.sockets {
		reply.Sockets[i] = protocol.Socket{Name: q.names[i], Network: sock.Network(), Address: sock.Address(), FileDescriptor: i}
		fds[i] = sock.FD()
	}
	g.desk.out = protocol.AppendGetReply(g.desk.out[:0], reply, q.more)
	if _, err := g.conn.Send(g.desk.out, fds[:len(q.sockets)]...); err != nil {
		g.server.locked(func() { g.server.registry.cancel(q) })
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.ETOOMANYREFS) {
			return g.promote(b) // nothing was sent; what it can be told now is for a session to find out
		}
		if err := g.untaken(&sendError{err}); err != nil {
			g.refuse("", err)
		}
		g.leave(endUndelivered)
		return false
	}
	g.unread = true
	g.sent()
	if q.more {
		g.held = q.grant
	} else {
		g.known = q.grant
	}
	return true
}

// tell sends the guest what has become of its request, or its grant.
func (g *guest) tell() {
	if g.asked != nil && !g.settle() {
		return
	}
	event := ""
	g.server.locked(func() {
		if g.held != nil {
			event = g.held.takeEvent()
		}
	})
	if event == "" {
		return
	}
	g.waited = true
	goesOn := event == protocol.EventDrain
	reply := protocol.GetReply{Grant: g.held.id, Event: event}
	if _, err := g.conn.Send(protocol.AppendGetReply(g.desk.out[:0], reply, goesOn)); err != nil {
		g.leave(endDisconnected)
		return
	}
	g.sent()
	if goesOn {
		return
	}
	g.held = nil // it has ended
	if g.deaf {
		g.deaf = false
		_ = g.desk.watch(g.fd, unix.EPOLL_CTL_MOD, unix.EPOLLIN|unix.EPOLLRDHUP)
	}
}

// sendError tells the guest about err, if there is room for it.
func (g *guest) sendError(err error) error {
	b, err := protocol.AppendError(g.desk.out[:0], err)
	if err != nil {
		return err
	}
	_, err = g.conn.Send(b)
	return err
}

func (g *guest) becomeCalled() {
	g.called = true
	g.desk.silent.remove(g)
}

// forget takes the guest out of the desk's books.
func (g *guest) forget() {
	delete(g.desk.guests, g.number)
	g.desk.silent.remove(g)
}

// leave ends the connection, and the grant that lasts as long.
func (g *guest) leave(why ending) {
	g.forget()
	if g.held != nil {
		g.server.locked(func() { g.server.registry.end(g.held, why) })
	}
	if g.asked != nil {
		g.server.locked(func() { g.server.registry.cancel(g.asked.request) })
	}
	if g.held != nil || g.asked != nil {
		g.desk.tellWoken() // whoever has waited for the place comes before the rest
	}
	_ = g.fd.Close()
	g.server.dismiss(&g.client)
}

// promote gives the guest, who has no grant, a session of its own, which begins with
// b. It returns false: the guest does not stay.
func (g *guest) promote(b []byte) (stays bool) { return g.promoteWith(b, nil) }

// promoteWith is promote where b is a Get that was decided already: by q, unless that
// is nil. Nobody is woken for q any more, so that it goes on naming the guest does no harm.
func (g *guest) promoteWith(b []byte, q *request) (stays bool) {
	g.forget()
	if g.watched {
		_ = g.desk.watch(g.fd, unix.EPOLL_CTL_DEL, 0)
	}
	limit := time.Duration(0)
	if !g.called {
		limit = g.server.cfg.CallTimeout
		if !g.expires.IsZero() {
			limit = max(time.Until(g.expires), 1) // 0 would be a whole one
		}
	}
	f, err := g.fd.File("control connection")
	if err != nil {
		_ = g.fd.Close()
		g.server.dismiss(&g.client)
		return false
	}
	ses, err := newSession(g.desk.ctx, g.client, f, b)
	if err != nil {
		_ = f.Close()
		g.server.dismiss(&g.client)
		return false
	}
	ses.called, ses.unread, ses.asked = g.called, g.unread, q
	g.server.enter(ses)
	g.desk.running.Go(func() {
		defer g.server.exit(ses)
		ses.run(limit)
	})
	return false
}
