package bind

import (
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
)

// alteration is a socket that becomes that of another spec.
type alteration struct {
	socket  *socket.Socket
	was, to spec.Spec
}

// alter gives living sockets the options of their new specs. It comes last, since they are in use.
func (p *plan) alter() (done []alteration) {
	if len(p.failed.Failures) > 0 {
		return nil
	}
	for _, a := range p.toAlter {
		if err := a.socket.Become(a.to); err != nil {
			p.fail(failureOf(a.to, err))
			break
		}
		done = append(done, a)
	}
	return done
}

func undo(altered []alteration) {
	for _, a := range altered {
		_ = a.socket.Become(a.was) // as it was a moment ago
	}
}
