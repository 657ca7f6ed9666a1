package server

import (
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/fdbroker/fdbroker/broker/server/bind"
	"github.com/fdbroker/fdbroker/broker/server/conn"
	"github.com/fdbroker/fdbroker/broker/server/control"
	"github.com/fdbroker/fdbroker/broker/server/health"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/server/registry"
)

// ErrClosed is what Serve returns after it was told to stop, and Bind after that.
var ErrClosed = registry.ErrClosed

// Types of the rooms below that callers of a Server need.
type (
	Passed        = bind.Passed
	Donation      = bind.Donation
	Changes       = bind.Changes
	Doubt         = bind.Doubt
	ReloadOptions = bind.ReloadOptions
	Takeover      = bind.Takeover
	Store         = bind.Store
	StoreRoom     = bind.StoreRoom
	Control       = control.Control
	ControlConfig = control.Config
)

// IsStored reports whether a descriptor of that name is one that a [Store] was given.
func IsStored(name string) bool { return bind.IsStored(name) }

// Server owns listeners and hands them out. The methods of its [bind.Binder] change what is bound. All methods may
// be called concurrently.
type Server struct {
	*bind.Binder

	cfg      Config
	uid      uint32
	log      zerolog.Logger
	sampled  zerolog.Logger // for events whose number clients decide
	rarely   zerolog.Logger // for what is said once a minute
	registry *registry.Registry
	// descriptors is what the registry and the loop have of them.
	descriptors registry.Descriptors

	loop     *conn.Loop
	monitor  *health.Monitor
	exits    *peer.ExitWatcher
	watching sync.WaitGroup // for processes to exit, and for reserved grants to expire
	closing  chan struct{}  // closed by Close
	closed   sync.Once
	stopping chan struct{} // closed once Serve's context has ended

	grants  grantLog
	listing chan struct{} // one List without privilege at a time
	seeking chan struct{} // one search for strays at a time
	buffer  []byte        // for replies of Get; the event loop's
	taken   takenOver
}

// takenOver is when this broker took over from another one, and why.
type takenOver struct {
	at  time.Time
	why string
}
