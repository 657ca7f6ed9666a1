//go:build linux

package socket

import "slices"

// Reopen opens another socket for the spec of s, at its very address, for the case
// that s is spent. The caller must close it, and call settle as for [OpenBeside].
//
// An abstract name cannot be had while anybody has the old socket open: s is closed
// before, also where the error says that others have not yet.
func Reopen(s *Socket) (sock *Socket, settle func(keep bool), err error) {
	is := s.Spec()
	at := is
	at.Address = s.Address() // which has a port
	if at.Address[0] == '@' {
		_ = s.fd.Close()
		sock, err = OpenBriefly(at)
		settle = func(keep bool) {
			if !keep {
				_ = sock.Close()
			}
		}
	} else {
		s.ownFile()
		sock, settle, err = openBeside(at, []*Socket{s}, true)
	}
	if err != nil {
		return nil, nil, err
	}
	sock.spec.Store(&is)
	return sock, settle, nil
}

// ownFile makes the path of a socket from [Adopt] ours, if it leads there.
func (s *Socket) ownFile() {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.file != nil || s.Address()[0] != '/' {
		return
	}
	file, _, err := findFile(s.Address())
	if err != nil {
		return
	}
	byFile, _ := unixSockets(s.Address(), file)
	if slices.ContainsFunc(byFile, func(d diagSocket) bool { return d.inode == s.inode }) {
		s.file = file
	}
}
