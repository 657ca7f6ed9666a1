package socket

import "github.com/fdbroker/fdbroker/broker/socket/spec"

// Raise makes the backlogs of sockets as large as their specs say, if net.core.somaxconn was raised since they were
// opened. It returns which it has raised. A socket that another program has opened stays as it is.
func Raise(sockets []*Socket) (raised []*Socket) {
	most := somaxconn()
	for _, s := range sockets {
		if !s.adopted && s.network().In(spec.Listening) && cappedBacklog(s.Spec(), most) > s.Backlog() && s.raise() {
			raised = append(raised, s)
		}
	}
	return raised
}

func (s *Socket) raise() bool {
	s.changing.Lock()
	defer s.changing.Unlock()
	was := s.Backlog()
	err := control(s.fd, func(fd int) error {
		backlog, err := listen(s.Spec(), fd)
		if err != nil {
			return err
		}
		if f, err := s.figures(nil); err == nil { // its network namespace may have a lower cap
			backlog = int(f.Limit)
		}
		s.backlog.Store(int32(backlog))
		return nil
	})
	return err == nil && s.Backlog() > was
}
