package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// Of a Unix socket and its replacement at the same path, clients reach the new one from the moment it is open. Of two
// IP sockets they reach either, as the kernel likes.

// Commit keeps a new socket. The sockets that it replaces lose their path for good. Without [OpenConfig].Replacing it
// does nothing.
func (s *Socket) Commit() {
	if r := s.replaces; r != nil && r.moved != nil {
		_ = r.moved.Remove()
	}
	s.replaces = nil
}

// Abort closes a new socket and undoes the changes that opening it has made: the sockets that it was to replace have
// their address again, and a socket that has holders already keeps its path.
func (s *Socket) Abort() {
	if s.held {
		_ = s.Release()
		return
	}
	_ = s.Close() // no process has it yet
	if s.replaces != nil {
		s.replaces.undo()
		s.replaces = nil
	}
}

// makeWay lets a socket of s be bound beside those of old.
func makeWay(s spec.Spec, old []*Socket) (*replacement, error) {
	r := new(replacement)
	for _, o := range old {
		if is := o.Address(); is == s.Address && is[0] == '@' && o.Network() == s.Network {
			return nil, spec.Problemf(unix.EADDRINUSE,
				"%s has the address, and an abstract one can only be given to another socket by unbinding first", o.Name())
		}
	}
	for _, o := range old {
		if id := o.File(); id != (sockfile.FileID{}) && o.Address() == s.Address {
			if err := r.moveFile(o, id); err != nil {
				return nil, err
			}
			break
		}
	}
	for _, o := range old {
		if o.samePort(s) {
			r.sharing = append(r.sharing, o)
			o.setReusePort(true)
		}
	}
	return r, nil
}

func (r *replacement) moveFile(o *Socket, id sockfile.FileID) error {
	o.setReplaced(true)
	moved, err := sockfile.New(o.Address(), id).MoveTo(o.Address() + ".replaced")
	if moved == nil {
		o.setReplaced(false)
	}
	if err != nil {
		return fmt.Errorf("move the old socket to %s.replaced: %w", o.Address(), err)
	}
	r.owner, r.moved = o, moved
	return nil
}

// undo reverts the changes of makeWay.
//
// While a port is shared, the kernel looks at SO_REUSEPORT of both sockets when the second one is bound. The new one
// has the option until it listens. The old one keeps it if it is replaced: it may live on in a worker, and must not be
// in the way of the next one either. Other processes of this user can then bind the address, too, but those could as
// well ask for the socket.
func (r *replacement) undo() {
	for _, o := range r.sharing {
		o.setReusePort(false)
	}
	if r.moved == nil {
		return
	}
	if _, err := r.moved.MoveTo(r.owner.Address()); errors.Is(err, unix.EEXIST) {
		_ = r.moved.Remove() // another process has the path now
		return
	}
	r.owner.setReplaced(false)
}

// samePort reports whether s and a socket of as may have the same port.
func (s *Socket) samePort(as spec.Spec) bool {
	is, err := netip.ParseAddrPort(s.Address())
	return err == nil && spec.NetworkOf(as.Network).In(spec.Inet) &&
		strings.HasSuffix(as.Address, fmt.Sprintf(":%d", is.Port()))
}

// setReplaced says that the path is for another socket, and not to be repaired.
func (s *Socket) setReplaced(on bool) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.health.replaced = on; !on && s.file != nil {
		s.file.KeepBackup() // the other socket may have taken its place
	}
}

// setReusePort changes SO_REUSEPORT for as long as the broker wants it so.
func (s *Socket) setReusePort(on bool) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if control(s.fd, reusePort(on).set) == nil {
		s.health.reusePort = on
	}
}
