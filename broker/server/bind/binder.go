package bind

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Config is what a [Binder] needs.
type Config struct {
	Registry *registry.Registry
	Store    Store // nil: nothing outlives the broker
	// StoreRoom says what the Store has room for; nil: that is not known.
	StoreRoom func() StoreRoom
	MaxNames  int
	// NoRecover makes an address that is in use an error at the start too, even if the socket of an
	// earlier broker could be recovered.
	NoRecover bool
	// HandBackTime is how long WaitPending waits for sockets to be handed back.
	HandBackTime time.Duration
	// Counted is called with the number of listeners after each change. It may be nil.
	Counted func(listeners int)
	// BeyondRepair reports whether only another socket helps against a fault of one; nil: never.
	BeyondRepair func(*socket.Socket) bool
	Log          zerolog.Logger
}

// Binder changes what is bound. Its methods may be called concurrently.
type Binder struct {
	cfg      Config
	wasReady atomic.Bool // this broker or one before it has been ready

	mu      sync.Mutex // one change at a time; taken before the registry's lock
	orphans []Passed   // sockets of an earlier broker about which the journal says nothing
	control *scmrights.FD
	journal string   // its name in the store
	expired []string // journals of an earlier layout in the store, until this broker is ready

	unstored struct {
		sync.Mutex
		why map[*socket.Socket]string // of listeners that the store does not have
	}

	following struct { // what follows old sockets: see retired.go
		sync.WaitGroup
		once sync.Once
		over chan struct{}
	}
	followed    map[*socket.Socket]struct{}
	toldSharing bool

	pending struct {
		sync.Mutex
		names map[string]*handBack
		done  chan struct{} // closed when none is pending any more; nil if none ever was
	}
}

// New returns a binder.
func New(cfg Config) *Binder {
	b := &Binder{cfg: cfg}
	b.following.over = make(chan struct{})
	return b
}

// Passed is a descriptor that another program has opened for the broker.
type Passed struct {
	Name string
	FD   *scmrights.FD
}

// Bind binds listeners, all or none. A name that is bound already with the same spec is left as it is.
// The error is a [*protocol.BindFailedError] with each spec that failed, a [*protocol.NameInUseError], a
// [*protocol.LimitError] or [registry.ErrClosed].
func (b *Binder) Bind(specs ...spec.Spec) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.newPlan()
	for _, s := range specs {
		if err := p.add(s, p.onlyNew); err != nil {
			return err
		}
	}
	return p.execute()
}

// Unbind closes listeners, all or none. Their holders go on accepting. The error is a
// [*protocol.UnknownNameError] or [registry.ErrClosed].
func (b *Binder) Unbind(names ...string) error {
	b.mu.Lock()
	removed, err := b.cfg.Registry.Apply(registry.Change{Remove: names})
	last := b.closeListeners(removed, false)
	b.fill()
	b.mu.Unlock()
	b.closeListeners(last, true) // these have no address, and their close may block
	b.counted()
	return err
}

// apply makes opened, which are committed or aborted, the listeners of a change.
func (b *Binder) apply(opened []*socket.Socket, c registry.Change) error {
	if err := b.checkRoom(len(opened) - len(c.Remove)); err != nil {
		abort(opened)
		return err
	}
	for _, sock := range opened {
		e := registry.Listener{Socket: sock, Token: b.cfg.Registry.NewToken()}
		c.Add = append(c.Add, e)
	}
	b.keepSockets(c.Add) // before a worker can get them
	removed, err := b.cfg.Registry.Apply(c)
	if err != nil {
		for _, e := range c.Add {
			b.unkeepSocket(e)
		}
		b.fill()
		abort(opened)
		return err
	}
	b.retire(c.Renew, opened)
	b.closeListeners(b.closeListeners(removed, false), true)
	b.fill()
	b.endHandBacks(c)
	b.counted()
	return nil
}

// abort undoes what opened sockets that no worker has got yet.
func abort(opened []*socket.Socket) {
	for _, sock := range opened {
		sock.Abort()
	}
}

// checkRoom returns an error if there may not be so many more listeners, or if the broker has stopped.
func (b *Binder) checkRoom(more int) error {
	if b.cfg.Registry.Phase() >= registry.Stopped {
		return registry.ErrClosed
	}
	if more > 0 && b.cfg.Registry.Count()+more > b.cfg.MaxNames {
		return &protocol.LimitError{Limit: "names", Max: b.cfg.MaxNames}
	}
	return nil
}

// closeListeners closes the sockets of removed listeners, and takes them out of the store. Those that came
// from put with any are returned instead, unless any is set: their close may block.
func (b *Binder) closeListeners(removed []registry.Listener, any bool) (last []registry.Listener) {
	for _, e := range removed {
		if e.Socket.Any() && !any {
			last = append(last, e)
			continue
		}
		b.unkeepSocket(e)
		if err := e.Socket.Close(); err != nil {
			b.cfg.Log.Warn().Err(err).Str("name", e.Socket.Name()).Msg("closing a listener")
		}
	}
	return last
}

func (b *Binder) counted() {
	if b.cfg.Counted != nil {
		b.cfg.Counted(b.cfg.Registry.Count())
	}
}

// Freeze waits for a change that is under way, and lets no other one happen.
func (b *Binder) Freeze() {
	b.stopFollowing()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cfg.Registry.Freeze()
}

// Close closes what the binder holds besides the listeners, and returns their sockets, which the caller must close.
func (b *Binder) Close() (sockets []*socket.Socket) {
	b.stopFollowing()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.orphans {
		_ = p.FD.Close()
	}
	b.orphans = nil
	if b.control != nil {
		_ = b.control.Close()
	}
	return b.cfg.Registry.Close()
}

// failureOf turns what a spec failed with into what travels.
func failureOf(s spec.Spec, err error) protocol.BindFailure {
	f := protocol.BindFailure{Spec: s.String(), Message: err.Error()}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		f.Errno = int(errno)
	}
	if e, ok := errors.AsType[*socket.BindError](err); ok {
		for _, p := range e.Holders {
			f.Processes = append(f.Processes, protocol.Process{PID: p.PID, Command: p.Command})
		}
	}
	return f
}
