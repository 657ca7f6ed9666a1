//go:build linux

package server

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// ErrClosed is what Serve returns after it was told to stop, and Bind after Close.
var ErrClosed = errors.New("server: closed")

const (
	stopLimit  = time.Second // for calls under way when the server stops
	backoffMin = 5 * time.Millisecond
	backoffMax = time.Second
)

// Server owns listeners and hands them out. Its methods may be called
// concurrently.
type Server struct {
	cfg      Config
	uid      uint32
	log      zerolog.Logger
	sampled  zerolog.Logger // for what peers decide the number of
	registry *registry
	desk     *desk
	watching sync.WaitGroup // for processes to end

	binding sync.Mutex // one Bind or Unbind at a time; taken before the registry's lock

	listing chan struct{} // holds who makes a list without privilege: one at a time

	closing       chan struct{} // closed by Close
	stateName     string        // of the state in the store
	control       *scmrights.FD // for who takes over; nil until KeepControl
	controlRecord int           // in the state
	taken         takenOver
	orphans       []Passed // sockets of an earlier broker of which nothing is known; guarded by binding

	buffers sync.Pool // of *[]byte, for replies: an idle session keeps none

	mu       sync.Mutex
	sessions map[*session]struct{}
	present  int            // clients in all: the desk's guests and the sessions'
	clients  map[uint32]int // the same, by uid
}

// New returns a Server without listeners. The caller must close it.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	l, err := newLifetimes()
	if err != nil {
		return nil, err
	}
	st, err := newState()
	if err != nil {
		l.close()
		return nil, err
	}
	s := &Server{
		closing: make(chan struct{}), listing: make(chan struct{}, 1),
		cfg: cfg, uid: uint32(os.Geteuid()), log: cfg.Logger,
		sampled:  cfg.Logger.Sample(&zerolog.BurstSampler{Burst: 100, Period: time.Second}),
		registry: newRegistry(l, st, cfg.Logger.GetLevel() <= zerolog.DebugLevel),
		buffers:  sync.Pool{New: func() any { return new([]byte) }},
		sessions: make(map[*session]struct{}), clients: make(map[uint32]int),
	}
	if s.desk, err = newDesk(s); err != nil {
		l.close()
		st.close()
		return nil, err
	}
	if s.registry.ward.healer, err = newHealer(s); err != nil {
		s.desk.close()
		l.close()
		st.close()
		return nil, err
	}
	s.watching.Go(func() {
		l.run(func(ids []int64) { s.locked(func() { s.registry.exited(ids) }) })
	})
	return s, nil
}

// Close closes the listeners, also those of a Bind that is under way, for which it
// waits. Those who hold them go on accepting. Serve must have returned. With
// [Config.Outlived] the files of Unix sockets stay.
func (s *Server) Close() error {
	s.registry.ward.healer.close() // before the lock is taken, which it may be waiting for
	s.binding.Lock()
	defer s.binding.Unlock()
	var sockets []*socket.Socket
	first := false
	s.locked(func() {
		first = !s.registry.closed
		sockets = s.registry.clear()
	})
	if first {
		close(s.closing)
	}
	s.registry.lifetimes.close()
	s.watching.Wait()
	s.desk.close()
	s.registry.state.close()
	var errs []error
	for _, sock := range sockets {
		if s.cfg.Outlived {
			errs = append(errs, closeAtLast(sock, sock.Release))
		} else {
			errs = append(errs, closeAtLast(sock, sock.Close))
		}
	}
	for _, p := range s.orphans {
		errs = append(errs, p.FD.Close())
	}
	if s.control != nil {
		errs = append(errs, s.control.Close())
	}
	return errors.Join(errs...)
}

// locked calls f with the registry's lock held, and reports what happened.
func (s *Server) locked(f func()) {
	for _, e := range s.registry.do(f) {
		s.report(e)
	}
}

// Bind binds listeners, all or none. A name that is bound already with the same
// spec is left as it is. The error is a *[protocol.BindFailedError] with each
// spec that failed, a *[protocol.NameInUseError] or a *[protocol.LimitError], or,
// after Close, [ErrClosed].
func (s *Server) Bind(specs ...socket.Spec) error {
	s.binding.Lock()
	defer s.binding.Unlock()
	fresh, err := s.unbound(specs)
	if err != nil {
		return err
	}
	sockets, err := open(fresh)
	if err != nil {
		return err
	}
	s.insert(sockets)
	s.counted()
	return nil
}

// unbound returns those of specs that are not bound yet.
func (s *Server) unbound(specs []socket.Spec) ([]socket.Spec, error) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	if s.registry.over() {
		return nil, ErrClosed
	}
	seen := make(map[string]socket.Spec, len(specs))
	var fresh []socket.Spec
	for _, spec := range specs {
		is, taken := seen[spec.Name]
		if l := s.registry.listeners[spec.Name]; l != nil {
			is, taken = l.socket.Spec(), true
		}
		switch {
		case taken && !is.Equal(spec):
			return nil, &protocol.NameInUseError{Name: spec.Name, Spec: is.String()}
		case !taken:
			seen[spec.Name] = spec
			fresh = append(fresh, spec)
		}
	}
	if len(s.registry.listeners)+len(fresh) > s.cfg.MaxNames {
		return nil, &protocol.LimitError{Limit: "names", Max: s.cfg.MaxNames}
	}
	return fresh, nil
}

// open opens the sockets of all specs, or of none.
func open(specs []socket.Spec) ([]*socket.Socket, error) {
	sockets := make([]*socket.Socket, 0, len(specs))
	var failed protocol.BindFailedError
	for _, spec := range specs {
		sock, err := socket.Open(spec)
		if err != nil {
			failed.Failures = append(failed.Failures, failureOf(spec, err))
			continue
		}
		sockets = append(sockets, sock)
	}
	if len(failed.Failures) == 0 {
		return sockets, nil
	}
	for _, sock := range sockets {
		_ = sock.Close() // the failures are what to tell
	}
	return nil, &failed
}

// Unbind closes listeners, all or none. Those who hold them go on accepting. The
// error is a *[protocol.UnknownNameError].
func (s *Server) Unbind(names ...string) error {
	s.binding.Lock()
	var sockets []*socket.Socket
	var err error
	s.locked(func() {
		if err = ErrClosed; !s.registry.left {
			sockets, err = s.registry.remove(names)
		}
	})
	s.closeAll(slices.DeleteFunc(slices.Clone(sockets), (*socket.Socket).Any))
	s.binding.Unlock()
	s.closeAll(sockets) // what is left has no address that others wait for, and may take long
	s.counted()
	return err
}

// closeAll closes sockets that are no listener's any more.
func (s *Server) closeAll(sockets []*socket.Socket) {
	for _, sock := range sockets {
		s.unkeepSocket(sock)
		if err := sock.Close(); err != nil {
			s.log.Warn().Err(err).Str("name", sock.Spec().Name).Msg("closing a listener")
		}
	}
}

// counted tells whoever asked for it how many listeners there are now.
func (s *Server) counted() {
	if s.cfg.Counted == nil {
		return
	}
	s.registry.mu.Lock()
	n := len(s.registry.listeners)
	s.registry.mu.Unlock()
	s.cfg.Counted(n)
}

// Serve takes ln and answers calls on it until ctx is done. Calls under way may
// finish within a second; when it returns, no goroutine of it is left but those that the
// kernel keeps from closing what clients have sent: they use nothing of the server's.
// The error is never nil; after a normal stop it is [ErrClosed]. It may be called once.
func (s *Server) Serve(ctx context.Context, ln *scmrights.FD) error {
	defer ln.Close()
	told := ctx
	ctx, cancel := context.WithCancel(context.WithoutCancel(told))
	defer cancel()
	// From one moment to the next nothing is granted any more, and the state says so.
	stop := func() {
		s.locked(func() {
			s.freeze(context.Cause(told))
			cancel()
		})
	}
	var stopping, running sync.WaitGroup
	if err := s.desk.open(ctx, ln, &running); err != nil {
		return err
	}
	stopping.Go(func() {
		select {
		case <-told.Done():
			stop()
		case <-ctx.Done():
		}
		s.desk.interrupt()
	})
	err := s.desk.run()
	cancel()
	stopping.Wait()
	s.stopSessions(&running)
	return err
}

// exhausted reports whether err passes by itself.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) ||
		errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ECONNABORTED)
}
