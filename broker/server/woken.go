//go:build linux

package server

import (
	"sync"

	"golang.org/x/sys/unix"
)

// woken is the guests whose requests or grants somebody has changed.
type woken struct {
	mu     sync.Mutex // taken after the registry's
	guests []*guest
	busy   bool // the desk looks at them before it waits again
}

// wake makes the desk look at what has become of the guest.
func (g *guest) wake() {
	w := &g.desk.woken
	w.mu.Lock()
	w.guests = append(w.guests, g)
	busy := w.busy
	w.mu.Unlock()
	if !busy {
		g.desk.interrupt()
	}
}

// interrupt makes the desk look at its context, and at who was woken.
func (d *desk) interrupt() {
	_ = d.wakeup.Control(func(fd uintptr) {
		_, _ = unix.Write(int(fd), []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
}

// rest makes the next interrupt count.
func (d *desk) rest() {
	_ = d.wakeup.Control(func(fd uintptr) {
		var count [8]byte
		_, _ = unix.Read(int(fd), count[:])
	})
}

// begin begins a turn: who is woken in it needs no interrupt.
func (d *desk) begin() {
	d.woken.mu.Lock()
	defer d.woken.mu.Unlock()
	d.woken.busy = true
}

// finish ends a turn. Who was woken while others were told is told in the next one, so
// that those who come have theirs.
func (d *desk) finish() {
	d.tellWoken()
	d.woken.mu.Lock()
	d.woken.busy = false
	more := len(d.woken.guests) > 0
	d.woken.mu.Unlock()
	if more {
		d.interrupt()
	}
}

// tellWoken tells guests what has become of their requests and grants.
func (d *desk) tellWoken() {
	d.woken.mu.Lock()
	guests := d.woken.guests
	d.woken.guests = nil
	d.woken.mu.Unlock()
	for _, g := range guests {
		if d.guests[g.number] == g {
			g.tell()
		}
	}
}
