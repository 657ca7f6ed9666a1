package health

import (
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"golang.org/x/sys/unix"
)

// notesMost is how many of a socket's incidents Report receives in a second.
const notesMost = 5

// target is a watched socket. Times count from the monitor's start.
type target struct {
	socket   *socket.Socket
	id       uint64
	watch    int32 // of its path; 0: none
	newPath  bool  // its path is to be watched
	holders  int32
	blocking bool // how the broker has left O_NONBLOCK
	modeTold bool // ModeChanged was called

	changed time.Duration // when a grant began or ended last
	pause   time.Duration // before the next look
	due     time.Duration // the next look; 0: now, because the kernel has reported something

	repaired int           // how often
	second   time.Duration // the one in which
	notes    int           // so many incidents were reported
	untold   int           // incidents since the last that was
	fault    string        // the present one, or ""
	attempts int           // to repair a fault that may pass
	since    time.Duration // the first of them
}

// count counts an incident, and adds it to notes unless there were too many.
func (t *target) count(notes []string, what string, now time.Duration) []string {
	t.repaired++
	if now-t.second >= time.Second {
		t.second, t.notes = now, 0
	}
	if t.notes++; t.notes > notesMost {
		t.untold++
		return notes
	}
	if t.untold > 0 {
		what = fmt.Sprintf("%s (and %d incidents before that were not told)", what, t.untold)
		t.untold = 0
	}
	return append(notes, what)
}

// ended records how an attempt to repair t ended, and returns the fault to be reported.
func (t *target) ended(err error, now time.Duration) *Fault {
	was := t.fault
	switch {
	case err == nil:
		t.fault, t.attempts = "", 0
		return nil
	case errors.Is(err, socket.ErrBeyondRepair):
		t.fault, t.attempts = err.Error(), 0
		if t.fault == was {
			return nil
		}
		return &Fault{Err: err, Attempts: 1}
	}
	if t.attempts++; t.attempts == 1 {
		t.since, t.pause = now, 0
	}
	if t.attempts == 1 || !errors.Is(err, unix.EADDRINUSE) { // else fault may say already which process it is
		t.fault = err.Error()
	}
	if t.attempts == 1 || bits.OnesCount(uint(t.attempts)) > 1 { // a fault that passes at once is not worth a report
		return nil
	}
	return &Fault{Err: err, Attempts: t.attempts}
}

// checkMode returns true once if a holder has changed O_NONBLOCK, until it is right again.
func (t *target) checkMode() bool {
	is, err := t.socket.Blocking()
	if err != nil || (is != t.blocking) == t.modeTold {
		return false
	}
	t.modeTold = !t.modeTold
	return t.modeTold
}

// nextPause returns the pause after a look, or 0 if there is no reason for another one: the
// socket has neither a holder nor a fault that may pass.
func (t *target) nextPause(now time.Duration) time.Duration {
	pause := min(max(2*t.pause, lookEvery), lookMost)
	switch {
	case t.attempts > 0:
		return min(pause, max(retryMost, (now-t.since)/4))
	case t.holders == 0:
		return 0
	case now-t.changed < freshTime:
		return lookEvery
	}
	return pause
}
