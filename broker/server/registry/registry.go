package registry

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

var (
	// ErrClosed refuses to change the set of listeners of a broker that has stopped.
	ErrClosed = errors.New("server: closed")
	// ErrStopping refuses what the next broker would not know of.
	ErrStopping = errors.New("the broker is stopping")
)

// Registry is the books of one broker. Its methods may be called concurrently.
type Registry struct {
	cfg Config

	mu          sync.Mutex
	phase       Phase
	journal     *journal.Journal // which records nothing until Continue
	listeners   map[string]*listener
	sorted      []*listener     // the same, by name; nil: not known
	stale       []*listener     // with old sockets of names that have new ones
	pending     map[string]bool // names that are not bound yet, and may be handed back
	grants      map[int64]*Grant
	processes   map[peer.ID]*Grant // grants that follow a process
	pids        map[int]*Grant     // the same, by pid
	users       map[uint32]int     // how many of these each user has
	waiting     []*Request         // in the order in which they asked
	deploys     map[*Deploy]struct{}
	watchers    map[*Watcher]struct{}
	lastID      int64
	lastToken   uint32
	freed       bool // a place or a name may be free for a request that waits
	events      []Event
	grantEvents eventLimit
	unwritten   bool // that the journal cannot be written was noted
}

// Config is what a registry needs.
type Config struct {
	// Exits tells of processes that end; the registry adds those of grants to it.
	Exits *peer.ExitWatcher
	// Health hears which sockets are to be watched. Its methods are called with the registry's lock
	// held: they must not block or call the registry.
	Health Observer
	// MaxGrantsPerUID limits the processes of a user without privilege that may hold listeners.
	MaxGrantsPerUID int
	// Descriptors counts listeners and processes that are followed; nil: nothing does.
	Descriptors *Descriptors
	// Report is called for each event, in order, without the lock.
	Report func(Event)
	// GrantEvents is how many events of grants Report receives in a second at most; if it is negative, all.
	GrantEvents int
}

// Observer watches the health of sockets.
type Observer interface {
	Watch(s *socket.Socket, blocking bool) // blocking is how the broker has left O_NONBLOCK
	Unwatch(s *socket.Socket)              // comes before the socket's close
	Held(s *socket.Socket)                 // a grant of it began
	Freed(s *socket.Socket)                // a grant of it ended
	// SetMode sets or clears O_NONBLOCK. Changed says that a holder had changed it, which was not reported yet.
	SetMode(s *socket.Socket, blocking bool) (changed bool, err error)
}

// Link is a connection that an event may concern. Its methods are called with the registry's lock held.
type Link interface {
	// Wake makes the connection look again at what it waits for, which has changed before.
	Wake()
	// Gone reports whether the peer has closed its end.
	Gone() bool
}

// Phase is how far the life of the broker has come. It only grows.
type Phase int

const (
	Serving  Phase = iota
	Stopping       // nothing is granted; grants in the journal stay as they are
	Stopped        // the set of listeners does not change any more
	Closed         // there are no listeners
)

// listener is a name with its socket.
type listener struct {
	Listener
	blocking bool      // how the broker has left O_NONBLOCK
	unbound  bool      // the socket belongs to its holders only
	stale    bool      // another listener has followed it: see stale.go
	old      *listener // the stale one that it has followed, if any
	used     bool      // a process may have the socket: somebody holds it, or did, or has opened it
	holders  []*Grant
	unseen   int32 // grants that ended with a connection, while the process may have gone on: see unseen.go
	away     int32 // grants of the broker before whose client cannot be followed and may come back
	fence    fence
}

// Grant records that a process holds listeners. It lasts as long as the process behind pidfd, or as
// long as the connection of link. The registry's lock guards what changes.
type Grant struct {
	id         int64
	peer       peer.Credentials
	since      time.Time
	pidfd      *scmrights.FD // nil if the grant lasts as long as a connection
	process    peer.ID
	link       Link // nil if it lasts as long as a process
	more       bool // its client is sent events
	discovered bool // its process did not ask: it was seen to hold the socket
	reserved   bool // restored for a client that has not reconnected; pidfd is its process

	generation int64       // its deploy's, or its own id
	signal     unix.Signal // asks the process to leave; 0: nothing does
	draining   bool
	drains     []*Drain // which count it

	listeners []*listener       // in the order in which they were asked for
	times     map[*listener]int // how many requests got each, if more than one
	ended     bool
	event     string // for its client, once link is woken
}

// Request is one Get until it is decided. The caller sets the exported fields before [Registry.Ask].
type Request struct {
	Names       []string
	Blocking    *bool       // the mode that the process needs, if any
	DrainSignal unix.Signal // asks the process to leave; 0: nothing does
	Generation  int64       // of the deploy that it belongs to; 0: none
	Reclaim     int64       // the grant of an earlier broker that it continues; 0: none
	More        bool        // the grant lasts as long as the connection, and its client is sent events
	Caller      *Caller
	Link        Link // is woken when a request that waited is decided

	id         int64
	since      time.Time
	process    peer.Process // zero: the grant lasts as long as the connection
	counted    *Descriptors // has the descriptor of process, while q waits
	discovered bool

	decided bool
	err     error
	grant   *Grant
	sockets []*socket.Socket
}

// Drain is grants that were asked to leave, and the deploys that hear of it first.
type Drain struct {
	link      Link
	listeners []*listener
	leaving   []*Grant
	unacked   int // deploys that have not acted on it
	left      int // grants that have not ended; counted once they were asked
}

// Asked is what asking drained grants to leave has come to.
type Asked struct {
	Count    int      // were asked, now or earlier, and have not ended
	Failed   int      // could not be asked
	Unserved []string // listeners that are left to nobody else
}

// Deploy is a client that starts workers, and hears when a newer one has replaced it.
type Deploy struct {
	generation int64
	names      []string // empty: only what its workers hold counts
	caller     *Caller
	link       Link
	replaced   bool
	rolls      bool     // it replaces its workers if asked
	roll       bool     // it is to replace its workers, and has not been told
	drains     []*Drain // that wait until it has acted on that
}

// Watcher is a connection that is sent what happens.
type Watcher struct {
	link     Link
	queue    []protocol.Event
	overflow bool // more happened than the queue holds; nothing follows
}

// Event is something that happened. Grant events have a Holder, listener events a Name and a Socket.
type Event struct {
	What   string
	Name   string
	Socket *socket.Socket
	Holder *protocol.Holder // of a grant, with its names
	Why    string
	Err    error
	PIDs   []int // of holders, for health events
	Untold int   // so many events of grants since the last one were too many for Report
}

// Kinds of events that only the log is told, and no watcher.
const (
	EventRestored = "restored"
	EventUnasked  = "unasked" // a drain signal could not be sent
	EventFaulty   = "sick"    // a fault of a socket that lasts
	EventLost     = "lost"    // grants of the previous broker were not restored
	// EventUnwritten: something could not be written to the journal; this is said once.
	EventUnwritten = "unwritten"
)

// New returns empty books.
func New(cfg Config) *Registry {
	return &Registry{
		cfg:       cfg,
		journal:   new(journal.Journal),
		listeners: make(map[string]*listener),
		pending:   make(map[string]bool),
		grants:    make(map[int64]*Grant),
		processes: make(map[peer.ID]*Grant),
		pids:      make(map[int]*Grant),
		users:     make(map[uint32]int),
		deploys:   make(map[*Deploy]struct{}),
		watchers:  make(map[*Watcher]struct{}),
	}
}

// ID returns the grant's id.
func (g *Grant) ID() int64 { return g.id }

// ID returns the number of the deploy's generation.
func (d *Deploy) ID() int64 { return d.generation }

// Listener is one entry of the set of listeners.
type Listener struct {
	Socket     *socket.Socket
	Token      uint32 // names the socket in the store
	Configured bool   // a reload decides what becomes of it
	Unstored   bool   // the store does not have it
}
