//go:build linux

package socket

// CanBecome reports whether [Socket.Become] can make s that of spec: whether the
// two differ in nothing but in who gets it, its backlog, whether it blocks, and
// options that a socket takes at any time. One from [Adopt] can become that of any
// spec of its name.
func (s *Socket) CanBecome(spec Spec) bool {
	is := s.Spec()
	if s.adopted {
		return is.Name == spec.Name
	}
	return is.fixed().Equal(spec.fixed())
}

// fixed returns s less the options that can change.
func (s Spec) fixed() Spec {
	o := *s.options()
	o.Allow, o.Max, o.Blocking = nil, 0, false
	o.Backlog, o.Mark, o.DeferAccept, o.FastOpen, o.NoDelay, o.KeepAlive = 0, 0, 0, 0, false, false
	s.Options = &o
	return s
}

// Become makes s the socket of spec, which [Socket.CanBecome] must have said yes
// to. What waits in its queue stays there, and so does O_NONBLOCK, which is its
// holders' too. On an error, a [*BindError], s is as it was.
func (s *Socket) Become(spec Spec) error {
	is := s.Spec()
	if is.Equal(spec) {
		return nil
	}
	if err := s.become(is, spec); err != nil {
		_ = s.become(spec, is) // what is set already; it was so a moment ago
		return newBindError(spec, err)
	}
	return nil
}

func (s *Socket) become(is, to Spec) error {
	n := networkOf(to.Network)
	to.Options = to.options()
	s.changing.Lock()
	defer s.changing.Unlock()
	return control(s.fd, func(fd int) error {
		backlog, err := s.Backlog(), error(nil)
		if s.adopted {
			var id identity
			if id, err = identify(fd); err == nil {
				err = id.checkFor(n, to)
			}
			if err == nil {
				backlog, err = id.setUp(n, to, fd)
			}
		}
		if err == nil && n.in(inetNets) {
			err = changeOptions(fd, is.options(), to.Options)
		}
		if err == nil && !s.adopted && is.options().Backlog != to.Options.Backlog {
			backlog, err = listen(n, to, fd)
		}
		if err != nil {
			return err
		}
		s.backlog.Store(int32(backlog))
		s.spec.Store(&to)
		return nil
	})
}
