package socket

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// Of a Unix socket and its replacement at the same path, clients reach the new one from the moment it is open. Of two
// IP sockets they reach either, as the kernel likes, until the old one is retired or closed.

// Commit keeps a new socket. The sockets that it replaces lose their path for good. Without [OpenConfig].Replacing it
// does nothing.
func (s *Socket) Commit() {
	r := s.replaces
	if s.replaces = nil; r == nil {
		return
	}
	if r.moved != nil {
		_ = r.moved.Remove()
	}
	s.shared = len(r.sharing) > 0
	r.endSharing()
}

// EndSharing makes the kernel forget that the port of s was shared, after the sockets that it replaces were retired or
// closed. It reports whether that worked: without privileges it may not. Again says that it may have been shared before.
func (s *Socket) EndSharing(again bool) bool {
	if (s.shared || again) && !s.forgetSharing() {
		return false
	}
	s.shared = false
	return true
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
	claims, err := s.Claims()
	if err != nil {
		return nil, r.failed(err)
	}
	for _, o := range old {
		if o.inTheWay(claims) {
			r.sharing = append(r.sharing, o)
			o.setReusePort(true)
		}
	}
	return r, nil
}

// failed undoes r, and returns err.
func (r *replacement) failed(err error) error {
	r.undo()
	return err
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

// endSharing clears SO_REUSEPORT again.
//
// While a port is shared, the kernel looks at SO_REUSEPORT of all its sockets when one more is bound. The new one has
// the option until it listens, the others until it is committed or aborted. Meanwhile other processes of this user can
// bind the address, too.
func (r *replacement) endSharing() {
	for _, o := range r.sharing {
		o.setReusePort(false)
	}
	r.sharing = nil
}

// undo reverts the changes of makeWay.
func (r *replacement) undo() {
	r.endSharing()
	if r.moved == nil {
		return
	}
	if _, err := r.moved.MoveTo(r.owner.Address()); errors.Is(err, unix.EEXIST) {
		_ = r.moved.Remove() // another process has the path now
		return
	}
	r.owner.setReplaced(false)
}

// inTheWay reports whether the kernel would refuse a socket with one of these claims beside s.
func (s *Socket) inTheWay(claims []spec.Claim) bool {
	mine := s.Claim()
	mine.Device = "" // it may change at any time
	return s.network().In(spec.Inet) && slices.ContainsFunc(claims, mine.Conflicts)
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
