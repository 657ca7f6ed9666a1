package server

import (
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// The defaults of [Config].
const (
	DefaultMaxClients       = 4096
	DefaultMaxClientsPerUID = 256
	DefaultMaxGrantsPerUID  = 1024
	DefaultMaxNames         = 16384
	DefaultCallTimeout      = 10 * time.Second
	DefaultOfferTime        = 3 * time.Second
)

// Config says how a [Server] behaves. In each field, zero means the default.
type Config struct {
	// Version is what GetInfo answers.
	Version string
	// MaxClients is how many connections the control socket serves at a time, one in
	// sixteen of which are only for root and the broker's user. Default 4096.
	MaxClients int
	// MaxClientsPerUID is the same for any one user who is neither root nor the broker's own. Default 256.
	MaxClientsPerUID int
	// MaxGrantsPerUID is how many processes of any one such user may hold listeners;
	// the broker has a descriptor open for each. Default 1024.
	MaxGrantsPerUID int
	// MaxNames is how many listeners there may be. Default 16384.
	MaxNames int
	// MaxNamesInCall is how many names one call may have. Default 64, and no more
	// than the 253 descriptors that one message can carry.
	MaxNamesInCall int
	// MaxMessage is how many bytes one call may have. Default 64 KiB.
	MaxMessage int
	// CallTimeout is how long a client may take from connecting to the end of its first call, from the first byte to
	// the last of any later one, to take a reply that does not fit into the socket's buffer, and to read descriptors
	// that another call stands behind. The events of a Watch may be read at any time. Default 10 s.
	CallTimeout time.Duration
	// NoRecover makes an address that is in use an error at the start as at any other
	// time, also where an earlier broker's socket could be taken back.
	NoRecover bool
	// OfferTime is how long [Server.WaitPending] waits for such a socket to be handed back if it
	// cannot be recovered. Default 3 s.
	OfferTime time.Duration
	// Reload answers the method of that name: it reads the configuration again and
	// calls [Server.Reload] with these options and its Doubt. It logs its error. Nil means that there is none,
	// and the method an error.
	Reload func(ReloadOptions) (Changes, error)
	// Upgrade answers the method of that name: it checks whether another program can take
	// over, and then takeOver ends Serve's context so that it does. It logs its error. Nil means that none can, and the method is an
	// error.
	Upgrade func() (takeOver func(), err error)
	// Counted is called with the number of listeners after each change of it. It
	// must not bind or unbind any. Nil means that nobody wants to know.
	Counted func(listeners int)
	// Store keeps what the next broker is to go on with. Nil means that nothing does.
	Store Store
	// StoreRoom says what the Store has room for. Nil means that it is not known.
	StoreRoom func() StoreRoom
	// Outlived says that the Store outlives a normal stop too: Close leaves the files of Unix sockets where they are.
	Outlived bool
	// Logger gets an event for what happens to listeners and grants, and for each refusal. The zero Logger is silent.
	Logger zerolog.Logger
}

func (c Config) withDefaults() (Config, error) {
	for _, f := range []struct {
		value  *int
		preset int
		name   string
	}{
		{&c.MaxClients, DefaultMaxClients, "MaxClients"},
		{&c.MaxClientsPerUID, DefaultMaxClientsPerUID, "MaxClientsPerUID"},
		{&c.MaxGrantsPerUID, DefaultMaxGrantsPerUID, "MaxGrantsPerUID"},
		{&c.MaxNames, DefaultMaxNames, "MaxNames"},
		{&c.MaxNamesInCall, protocol.MaxNamesInCall, "MaxNamesInCall"},
		{&c.MaxMessage, protocol.MaxMessage, "MaxMessage"},
	} {
		if *f.value < 0 {
			return c, fmt.Errorf("%s is negative", f.name)
		}
		if *f.value == 0 {
			*f.value = f.preset
		}
	}
	if c.MaxNamesInCall > scmrights.MaxFDs {
		return c, fmt.Errorf("MaxNamesInCall is %d: one message carries at most %d descriptors", c.MaxNamesInCall, scmrights.MaxFDs)
	}
	if c.CallTimeout < 0 || c.OfferTime < 0 {
		return c, errors.New("CallTimeout or OfferTime is negative")
	}
	if c.OfferTime == 0 {
		c.OfferTime = DefaultOfferTime
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = DefaultCallTimeout
	}
	return c, nil
}
