package bind

import (
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/scmrights"
)

// Store keeps descriptors while no broker runs, and passes them to the next one (see [Binder.Restore]).
// Its methods may be called concurrently.
type Store interface {
	// Keep adds a duplicate of fd, which it borrows, by that name.
	Keep(name string, fd *scmrights.FD) error
	// Forget closes what has that name.
	Forget(name string) error
}

// The names of descriptors in the store. None can be a listener's.
const (
	storedPrefix  = "@"
	storedControl = "@control"
	storedJournal = "@state" // and what makes it unlike those of other brokers
)

// IsStored reports whether a descriptor of that name is one that a [Store] was given.
func IsStored(name string) bool { return strings.HasPrefix(name, storedPrefix) }

// storedSocket is the name in the store of the socket that has the token. It is short, since all names
// together have to fit into one environment variable.
func storedSocket(token uint32) string {
	return storedPrefix + strings.ToUpper(strconv.FormatUint(uint64(token), 36))
}

// tokenOf returns the token of a socket's name in the store.
func tokenOf(name string) (token uint32, ok bool) {
	text := strings.TrimPrefix(name, storedPrefix)
	n, err := strconv.ParseUint(strings.ToLower(text), 36, 32)
	return uint32(n), err == nil && text == strings.ToUpper(text)
}

// keep adds something to the store. A listener that cannot be stored is bound all the same.
func (b *Binder) keep(name string, fd *scmrights.FD) {
	if b.cfg.Store == nil {
		return
	}
	if err := b.cfg.Store.Keep(name, fd); err != nil {
		b.cfg.Log.Error().Err(err).Str("stored", name).Msg("cannot be stored: it would not outlive this broker")
	}
}

// unkeep takes something out of the store.
func (b *Binder) unkeep(name string) {
	if b.cfg.Store == nil {
		return
	}
	if err := b.cfg.Store.Forget(name); err != nil {
		b.cfg.Log.Warn().Err(err).Str("stored", name).Msg("cannot be taken out of the store")
	}
}
