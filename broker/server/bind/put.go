package bind

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/kernel"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Donation is a descriptor that another program has made, and what is to become of it.
type Donation struct {
	Name    string
	Options string // as they stand in a spec behind the address
	// Any takes any descriptor; without it, it must be a socket that is bound and, if it takes connections, listens.
	Any bool
	// PID is a process that is to be known as its holder, if it can be seen to have the socket open; 0: none.
	PID int
	// Elsewhere says that PID is a number of another pid namespace: the broker cannot see that process.
	Elsewhere bool
	// DrainSignal asks that process to leave; 0: nothing does.
	DrainSignal unix.Signal
	FD          *scmrights.FD
}

// Put takes d.FD and makes it the socket of a listener that is not of the configuration. If the very same socket has
// the name already, with the same options, nothing changes. The error is a [*protocol.BindFailedError], a
// [*protocol.NameInUseError], a [*protocol.LimitError] or [registry.ErrClosed].
func (b *Binder) Put(d Donation) error {
	sock, err := d.adopt()
	if err != nil {
		return d.failed(err)
	}
	b.mu.Lock()
	if err = b.checkPut(d.Name, sock); err == nil {
		err = b.apply([]*socket.Socket{sock}, registry.Change{})
		sock = nil
	}
	b.mu.Unlock() // closing a donated descriptor may block
	if sock != nil {
		_ = sock.Close() // err is what to report
	}
	if err != nil && !errors.Is(err, errSamePut) {
		return err
	}
	held := func(sock *socket.Socket) bool { return !d.Elsewhere && sock.HeldBy(d.PID) }
	if d.PID != 0 && !b.cfg.Registry.Discover(d.PID, d.Name, d.DrainSignal, held) {
		l := b.cfg.Log.Warn().Str("name", d.Name).Int("pid", d.PID)
		if why := kernel.Explain(procfs.DescriptorsError(d.PID)); why != "" {
			l = l.Str("why", why)
		}
		l.Msg("cannot see whether this process has the socket, so list does not show it as a holder")
		if err == nil && (d.Elsewhere || procfs.HidesDescriptors(d.PID)) {
			b.cfg.Registry.LoseSight(d.Name)
		}
	}
	return nil
}

// CheckPut returns an error if no descriptor could become what d describes, which has none yet.
func (b *Binder) CheckPut(d Donation) error {
	if err := d.described().Check(); err != nil {
		return d.failed(err)
	}
	return b.checkPut(d.Name, nil)
}

// errSamePut says that a listener has the very socket already.
var errSamePut = errors.New("put again")

func (d Donation) described() socket.Donation {
	return socket.Donation{Name: d.Name, Options: d.Options, Any: d.Any}
}

func (d Donation) failed(err error) error {
	f := protocol.BindFailure{Spec: d.Name, Message: "cannot put " + err.Error()}
	return &protocol.BindFailedError{Failures: []protocol.BindFailure{f}}
}

func (d Donation) adopt() (*socket.Socket, error) {
	s, err := d.described().Spec(d.FD)
	if err != nil {
		_ = d.FD.Close()
		return nil, fmt.Errorf("%q: %w", d.Name, err)
	}
	return socket.Adopt(s, d.FD, socket.Foreign)
}

// checkPut returns an error if sock cannot have the name; nil is a socket that is not known yet.
func (b *Binder) checkPut(name string, sock *socket.Socket) error {
	l, bound := b.cfg.Registry.Lookup(name)
	if sock != nil && (!bound || l.Socket.Cookie() != sock.Cookie()) {
		if other, taken := b.nameOf(sock); taken {
			return &protocol.BindFailedError{Failures: []protocol.BindFailure{failureOf(sock.Spec(), bindError(sock.Spec(), takenBy(other)))}}
		}
	}
	if !bound {
		return b.checkRoom(1)
	}
	is := l.Socket.Spec()
	switch {
	case sock != nil && sock.Cookie() != 0 && sock.Cookie() == l.Socket.Cookie() && is.Equal(sock.Spec()):
		return errSamePut
	case sock == nil && l.Socket.Cookie() != 0:
		return nil // it may turn out to be the same one
	}
	return &protocol.NameInUseError{Name: name, Spec: is.String()}
}
