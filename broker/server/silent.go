//go:build linux

package server

import "time"

// guestList is a list of guests by when they expire, which for all is as long after
// they came.
type guestList struct{ first, last *guest }

func (l *guestList) add(g *guest) {
	g.prev = l.last
	if l.last == nil {
		l.first = g
	} else {
		l.last.next = g
	}
	l.last = g
}

// remove takes g out, if it is in.
func (l *guestList) remove(g *guest) {
	switch {
	case l.first == g:
		l.first = g.next
	case g.prev != nil:
		g.prev.next = g.next
	default:
		return
	}
	if l.last == g {
		l.last = g.prev
	} else {
		g.next.prev = g.prev
	}
	g.prev, g.next = nil, nil
}

// expire sends those away who have not said anything in time.
func (d *desk) expire() {
	if d.silent.first == nil {
		return
	}
	for now := time.Now(); d.silent.first != nil && !now.Before(d.silent.first.expires); {
		g := d.silent.first
		err := d.server.tooSlow("seconds to complete a call in")
		g.refuse("", err)
		_ = g.sendError(err) // it is disconnected in any case
		g.leave(endDisconnected)
	}
}
