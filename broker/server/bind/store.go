package bind

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
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

// keep adds something to the store.
func (b *Binder) keep(name string, fd *scmrights.FD) error {
	if b.cfg.Store == nil {
		return nil
	}
	err := b.cfg.Store.Keep(name, fd)
	if err != nil {
		b.cfg.Log.Error().Err(err).Str("stored", name).Msg("cannot store it, so it will not outlive this broker")
	}
	return err
}

// StoreRoom says how many descriptors a store keeps, and what makes that more.
type StoreRoom struct {
	Most   int
	Advice string
}

// keepSockets adds the sockets of listeners that are not in the registry yet. One that cannot be stored is bound all the
// same. The store itself tells nobody if it has no room.
func (b *Binder) keepSockets(added []registry.Listener) {
	if b.cfg.Store == nil {
		return
	}
	used, room, names := b.stored(), b.storeRoom(), []string(nil)
	for i, e := range added {
		switch added[i].Unstored = true; {
		case used >= room.Most:
			names = append(names, e.Socket.Name())
			b.lacks(e.Socket, fmt.Sprintf("the store has room for %d descriptors only (%s)", room.Most, room.Advice))
		case b.keepSocket(e):
			added[i].Unstored = false
			used++
		}
	}
	if names != nil {
		b.cfg.Log.Warn().Strs("names", names).Int("most", room.Most).Msg("the store has no room for these listeners, which would not outlive the broker: " + room.Advice)
	}
}

// keepSocket adds the socket of a listener, and reports whether that worked.
func (b *Binder) keepSocket(e registry.Listener) bool {
	if err := b.keep(storedSocket(e.Token), e.Socket.FD()); err != nil {
		b.lacks(e.Socket, err.Error())
		return false
	}
	b.unstored.Lock()
	defer b.unstored.Unlock()
	delete(b.unstored.why, e.Socket)
	return true
}

// unkeepSocket takes the socket of a listener out of the store, if that has it.
func (b *Binder) unkeepSocket(e registry.Listener) {
	if b.Unstored(e.Socket) == "" {
		b.unkeep(storedSocket(e.Token))
	}
}

// fill adds sockets that the store had no room for, now that something was taken out of it.
func (b *Binder) fill() {
	b.unstored.Lock()
	left := len(b.unstored.why)
	b.unstored.Unlock()
	if left == 0 {
		return
	}
	lacking, why := []registry.Listener(nil), make(map[*socket.Socket]string)
	for _, e := range append(b.cfg.Registry.Listeners(), b.cfg.Registry.Stale()...) {
		if text := b.Unstored(e.Socket); text != "" {
			lacking, why[e.Socket] = append(lacking, e), text
		}
	}
	b.unstored.Lock()
	b.unstored.why = why // without those that are gone
	b.unstored.Unlock()
	for _, e := range lacking {
		if b.stored() >= b.storeRoom().Most {
			return
		}
		if b.keepSocket(e) {
			b.cfg.Registry.Stored(e.Token)
			b.cfg.Log.Info().Str("name", e.Socket.Name()).Msg("the store has room for it now: it outlives the broker")
		}
	}
}

// stored returns how much the store has, with the control socket, which may come yet.
func (b *Binder) stored() int {
	b.unstored.Lock()
	defer b.unstored.Unlock()
	return 2 + len(b.orphans) + len(b.expired) + b.cfg.Registry.Count() + len(b.cfg.Registry.Stale()) - len(b.unstored.why)
}

func (b *Binder) storeRoom() StoreRoom {
	if b.cfg.StoreRoom == nil {
		return StoreRoom{Most: math.MaxInt}
	}
	return b.cfg.StoreRoom()
}

func (b *Binder) lacks(sock *socket.Socket, why string) {
	b.unstored.Lock()
	defer b.unstored.Unlock()
	if b.unstored.why == nil {
		b.unstored.why = make(map[*socket.Socket]string)
	}
	b.unstored.why[sock] = why
}

// Unstored says why the store does not have a socket, which therefore would not outlive the broker, or "".
func (b *Binder) Unstored(sock *socket.Socket) string {
	b.unstored.Lock()
	defer b.unstored.Unlock()
	return b.unstored.why[sock]
}

// unkeep takes something out of the store.
func (b *Binder) unkeep(name string) {
	if b.cfg.Store == nil {
		return
	}
	if err := b.cfg.Store.Forget(name); err != nil {
		b.cfg.Log.Warn().Err(err).Str("stored", name).Msg("cannot remove it from the store")
	}
}
