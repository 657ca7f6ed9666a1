//go:build linux

package conn

import (
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/protocol"
)

// One in reservedShare connections is reserved for root and the broker's user, so that other users,
// however many, cannot lock them out.
const reservedShare = 16

// admit counts a client, or says which limit is reached.
func (l *Loop) admit(c *registry.Caller) error {
	most := l.cfg.MaxClients
	if !c.Privileged {
		most -= most / reservedShare
	}
	if l.clients >= most {
		return &protocol.LimitError{Limit: "clients", Max: most}
	}
	if !c.Privileged && l.perUID[c.Peer.UID] >= l.cfg.MaxClientsPerUID {
		return &protocol.LimitError{Limit: "clients of one user", Max: l.cfg.MaxClientsPerUID}
	}
	l.clients++
	l.perUID[c.Peer.UID]++
	return nil
}

// dismiss counts a client no more.
func (l *Loop) dismiss(c *registry.Caller) {
	l.clients--
	if l.perUID[c.Peer.UID]--; l.perUID[c.Peer.UID] == 0 {
		delete(l.perUID, c.Peer.UID)
	}
}
