package supervisor

import (
	"fmt"
	"os"
	"strconv"
)

// The datagrams of a request for a roll, and of its answers. The client sends requestRoll. It is told answerBegun, or
// answerWaits if another roll is under way, and in the end how its roll went. Or it is refused.
const (
	requestRoll    = "roll"
	answerBegun    = "begun"
	answerWaits    = "waits"
	answerReplaced = "replaced" // followed by how many workers
	answerFailed   = "failed"   // followed by the reason
)

// RequestAddress returns the abstract address at which a supervisor that is the main process of pid can be asked for a
// roll. Pids of another pid namespace are other processes, and may share the network namespace.
func RequestAddress(pid int) string {
	namespace, _ := os.Readlink("/proc/self/ns/pid") // without /proc all are one
	return "@fdclient-run/" + namespace + "/" + strconv.Itoa(pid)
}

// requestsID is the poller's id of the socket for requests: no worker has the id 0.
var requestsID = readyOf(0, fromNotify)

// maxRequests is how many clients may wait for the end of a roll.
const maxRequests = 64

// request is a client that waits for the end of a roll.
type request struct {
	from string
	roll int // the id of the roll
}

// openRequests makes it possible to ask for a roll. Without that, SIGHUP still works.
func (s *supervisor) openRequests() {
	if s.config.Requests == "" {
		return
	}
	box, err := newMailbox(s.config.Requests, &s.closer, s.config.nudge)
	if err == nil {
		if err = box.watch(s.poller, requestsID); err != nil {
			box.close()
		}
	}
	if err != nil {
		s.log.Warn().Err(err).Str("address", s.config.Requests).Msg("'fdclient roll' cannot reach this process; use SIGHUP to replace the workers")
		return
	}
	s.requests = box
}

// closeRequests tells those who still wait that there will be no answer.
func (s *supervisor) closeRequests() {
	if s.requests != nil {
		s.refuseAll()
		s.requests.close()
	}
}

// readRequests begins a roll for each request.
func (s *supervisor) readRequests() {
	s.requests.each(func(d datagram) {
		switch {
		case string(d.text) != requestRoll || d.from == "":
		case !mayControl(d.peer.Uid):
			s.requests.answer(d.from, answerFailed+" "+whoMayAsk())
		case s.ending:
			s.requests.answer(d.from, answerFailed+" 'fdclient run' is ending: "+s.why)
		case !s.open:
			s.requests.answer(d.from, answerFailed+" 'fdclient run' waits for the broker, and has no workers yet")
		case len(s.asking) >= maxRequests:
			s.requests.answer(d.from, fmt.Sprintf("%s %d others wait for a roll already", answerFailed, maxRequests))
		default:
			s.requested(d)
		}
	})
}

func whoMayAsk() string {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Sprintf("only root and uid %d may ask for it", uid)
	}
	return "only root may ask for it"
}

// requested begins a roll, or another one that follows the one under way.
func (s *supervisor) requested(d datagram) {
	s.log.Info().Int32("pid", d.peer.Pid).Uint32("uid", d.peer.Uid).Msg("asked for a roll")
	q, answer := request{from: d.from, roll: s.rolls + 1}, answerBegun
	if s.roll != nil {
		answer = answerWaits
	}
	s.asking = append(s.asking, q)
	s.requests.answer(d.from, answer)
	s.beginRoll()
}

// answerRoll tells those who have asked for r how it went.
func (s *supervisor) answerRoll(r *roll) {
	waiting := s.asking[:0]
	for _, q := range s.asking {
		switch {
		case q.roll > r.id:
			waiting = append(waiting, q)
		case r.failure != "":
			s.requests.answer(q.from, answerFailed+" "+r.failure)
		default:
			s.requests.answer(q.from, answerReplaced+" "+strconv.Itoa(r.done))
		}
	}
	s.asking = waiting
}

// refuseAll tells all who wait for a roll that it does not end.
func (s *supervisor) refuseAll() {
	for _, q := range s.asking {
		s.requests.answer(q.from, answerFailed+" 'fdclient run' is ending: "+s.why)
	}
	s.asking = nil
}
