//go:build linux

package server

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// What the report of an event is told besides: eventSick the log alone.
const (
	eventHealed = protocol.EventHealed
	eventSick   = "sick"
)

const (
	// ailingMax is the longest pause between attempts to heal what cannot be at once.
	ailingMax = 500 * time.Millisecond
	// notesMax is how many of one listener's incidents are told in a second; all are
	// counted.
	notesMax = 5
)

// ward is what the healer has to know about the listeners. The registry's lock guards it.
type ward struct {
	healer  *healer
	byFD    []*listener         // by the number of the socket's descriptor; these are dense
	byPath  map[int32]*listener // by inotify's watch of the path
	arrived []*listener         // whose paths are to be watched
	held    []*listener         // by somebody, in no order
	sick    map[*listener]*sickness
	awake   bool // the healer looks at what is held
}

// care is a listener's part in the ward.
type care struct {
	past   *history
	number int32 // of its descriptor
	watch  int32 // of its path; 0: none
	heldAt int32 // its place in held
	sick   atomic.Bool
}

// history is what has happened to a listener. Few have any.
type history struct {
	healed int       // how often
	second time.Time // the one in which
	notes  int       // so many incidents were told
	untold int       // incidents since the last that was
	sent   sent      // away
}

// healed returns how often the listener has been healed.
func (c *care) healed() int {
	if c.past == nil {
		return 0
	}
	return c.past.healed
}

// sentAway returns who has been sent away.
func (c *care) sentAway() sent {
	if c.past == nil {
		return sent{}
	}
	return c.past.sent
}

// history returns what is written on.
func (c *care) history() *history {
	if c.past == nil {
		c.past = new(history)
	}
	return c.past
}

// sickness is something that cannot be undone at once.
type sickness struct {
	why      string
	attempts int
	next     time.Time
	forGood  bool // nothing is tried again: the kernel tells if the path is back
}

func newWard() ward {
	return ward{
		byPath: make(map[int32]*listener),
		sick:   make(map[*listener]*sickness),
	}
}

// ailing reports whether something has to be tried again.
func (w *ward) ailing() bool {
	for _, s := range w.sick {
		if !s.forGood {
			return true
		}
	}
	return false
}

// nudge wakes the healer, where it sleeps.
func (w *ward) nudge() {
	if w.awake || w.healer == nil {
		return
	}
	w.awake = true
	select {
	case w.healer.nudged <- struct{}{}:
	default:
	}
}

// admit has l watched from now on. What was put with any is no socket to be healed.
func (w *ward) admit(l *listener) {
	if w.healer == nil || l.socket.Any() {
		return
	}
	_ = l.socket.FD().Control(func(n uintptr) { l.number = int32(n) })
	// Neither connections nor packets are asked for: only a shutdown tells.
	if err := w.healer.register(unix.EPOLL_CTL_ADD, l.socket.FD(), unix.EPOLLRDHUP|unix.EPOLLET); err != nil {
		return // it is looked at while it is held
	}
	if more := int(l.number) + 1 - len(w.byFD); more > 0 {
		w.byFD = append(w.byFD, make([]*listener, more)...)
	}
	w.byFD[l.number] = l
	if strings.HasPrefix(l.socket.Address(), "/") {
		w.arrived = append(w.arrived, l)
		w.nudge()
	}
}

// discharge ends that. It must come before the socket is closed, which others may hold.
func (w *ward) discharge(l *listener) {
	if w.at(l.number) == l {
		_ = w.healer.register(unix.EPOLL_CTL_DEL, l.socket.FD(), 0)
		w.byFD[l.number] = nil
	}
	if l.watch != 0 {
		w.healer.unwatchPath(l.watch)
		delete(w.byPath, l.watch)
	}
	delete(w.sick, l)
}

// at returns whose socket has that number, or nil.
func (w *ward) at(number int32) *listener {
	if number < 0 || int(number) >= len(w.byFD) {
		return nil
	}
	return w.byFD[number]
}

// taken notes that l, which was free, has a holder.
func (w *ward) taken(l *listener) {
	if l.socket.Any() {
		return
	}
	l.heldAt = int32(len(w.held))
	w.held = append(w.held, l)
	w.nudge()
}

// freed notes that l, which was held, has no holder any more.
func (w *ward) freed(l *listener) {
	last := int32(len(w.held) - 1)
	if last < l.heldAt || w.held[l.heldAt] != l {
		return
	}
	w.held[l.heldAt] = w.held[last]
	w.held[l.heldAt].heldAt = l.heldAt
	w.held[last] = nil
	w.held = w.held[:last]
}

func (l *listener) patient() patient {
	return patient{l, l.socket, l.blocking, l.told}
}

// patients appends to list what is to be looked at now.
func (r *registry) patients(list []patient) []patient {
	now := time.Now()
	for _, l := range r.ward.held {
		if !l.sick.Load() {
			list = append(list, l.patient())
		}
	}
	for l, s := range r.ward.sick {
		if !s.forGood && !now.Before(s.next) {
			list = append(list, l.patient())
		}
	}
	return list
}

func (r *registry) patientBy(number int32) (patient, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.ward.at(number); l != nil {
		return l.patient(), true
	}
	return patient{}, false
}

// patientsAt returns those whose paths a watch of inotify is of: all of them where it
// has lost count.
func (r *registry) patientsAt(watch int32) (list []patient) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.ward.byPath[watch]; l != nil {
		return []patient{l.patient()}
	}
	if watch == -1 { // IN_Q_OVERFLOW
		for _, l := range r.ward.byPath {
			list = append(list, l.patient())
		}
	}
	return list
}

// treated records what was undone, and what could not be.
func (r *registry) treated(p patient, undone []string, err error) {
	l := p.listener
	if l.unbound || l.socket != p.socket {
		return
	}
	for _, what := range undone {
		r.healed(l, what)
	}
	if err == nil {
		delete(r.ward.sick, l)
		l.sick.Store(false)
		return
	}
	s := r.ward.sicken(l)
	if s.forGood = errors.Is(err, socket.ErrBeyondRepair); s.forGood {
		if s.why != err.Error() {
			s.why = err.Error()
			r.note(event{what: eventSick, name: l.socket.Spec().Name, socket: l.socket, err: err, pids: l.pids()})
		}
		return
	}
	if s.why == "" || !errors.Is(err, unix.EADDRINUSE) { // else somebody may know more by now
		s.why = err.Error()
	}
	s.again()
	if s.attempts > 1 && bits.OnesCount(uint(s.attempts)) == 1 { // what passes at once is not worth a word
		r.note(event{what: eventSick, name: l.socket.Spec().Name, socket: l.socket, err: err, pids: l.pids()})
	}
}

func (w *ward) sicken(l *listener) *sickness {
	s := w.sick[l]
	if s == nil {
		s = new(sickness)
		w.sick[l] = s
		l.sick.Store(true)
		w.nudge()
	}
	return s
}

// ailmentOf returns what ails l, or "".
func (w *ward) ailmentOf(l *listener) string {
	if s := w.sick[l]; s != nil {
		return s.why
	}
	return ""
}

// again sets the time of the next attempt.
func (s *sickness) again() {
	s.attempts++
	s.next = time.Now().Add(min(lookEvery<<min(s.attempts-1, 8), ailingMax))
}

// healed counts an incident, and tells of it unless there are too many.
func (r *registry) healed(l *listener, what string) {
	past := l.history()
	past.healed++
	if now := time.Now(); now.Sub(past.second) >= time.Second {
		past.second, past.notes = now, 0
	}
	if past.notes++; past.notes > notesMax {
		past.untold++
		return
	}
	if past.untold > 0 {
		what = fmt.Sprintf("%s (and %d incidents before that were not told)", what, past.untold)
		past.untold = 0
	}
	r.note(event{what: eventHealed, name: l.socket.Spec().Name, socket: l.socket, why: ending(what), pids: l.pids()})
}

// pids returns the processes that hold l, as far as a line has room for them.
func (l *listener) pids() []int {
	const most = 8
	var pids []int
	for _, g := range l.holders[:min(len(l.holders), most)] {
		pids = append(pids, g.peer.pid)
	}
	return pids
}

// tellFlipped tells once that a holder of l has changed O_NONBLOCK.
func (r *registry) tellFlipped(l *listener) {
	is, err := l.socket.Blocking()
	if err != nil || l.unbound || (is != l.blocking) == l.told {
		return
	}
	if l.told = is != l.blocking; l.told {
		r.note(event{what: "flipped", name: l.socket.Spec().Name, socket: l.socket})
	}
}
