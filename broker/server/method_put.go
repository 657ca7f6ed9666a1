package server

import (
	"errors"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// A client may send a descriptor only once it was asked to: it calls Put or Attach without one, and, if that is
// not refused, again with it.

// put answers Put.
func (k *call) put() error {
	var p protocol.PutParameters
	if err := protocol.DecodeParameters(k.Parameters, &p); err != nil {
		return err
	}
	signal, err := signalNamed(p.DrainSignal)
	if err != nil {
		return err
	}
	d := Donation{Name: p.Name, Options: p.Options, Any: p.Any, PID: p.PID, DrainSignal: signal}
	d.Elsewhere = k.conn.Caller.Peer.PID == 0
	if d.FD, err = k.received(p.FileDescriptor); err != nil {
		return err
	}
	if d.FD == nil {
		return k.expectPut(d)
	}
	return k.run(func() (any, error) {
		if err := k.Put(d); err != nil {
			return nil, err
		}
		l := k.log.Info().Str("name", p.Name)
		addPeer(l, k.conn.Caller.Peer)
		l.Msg("put")
		var reply protocol.PutReply
		if now := k.describeNew([]string{p.Name}); len(now) > 0 {
			reply.Listener = &now[0]
		}
		return reply, nil
	})
}

// expectPut lets the next call carry a descriptor, unless none could become what d describes. Checking that may
// read files.
func (k *call) expectPut(d Donation) error {
	k.conn.Run(func() func() error {
		err := k.Binder.CheckPut(d)
		return func() error {
			if err != nil {
				return k.refuse(err)
			}
			k.conn.OpenWindow()
			return k.reply(protocol.PutReply{}, false)
		}
	})
	return nil
}

// maxClaimed limits the holders that one call can name.
const maxClaimed = 1024

// attach answers Attach: it takes back a socket that an earlier broker had opened, from one of its holders.
func (k *call) attach() error {
	var p protocol.AttachParameters
	if err := protocol.DecodeParameters(k.Parameters, &p); err != nil {
		return err
	}
	s, err := k.Binder.Pending(p.Name)
	hidden := s.Options != nil && !k.conn.Caller.May(s.Options)
	if _, unknown := errors.AsType[*protocol.UnknownNameError](err); hidden || unknown { // which are the same to the caller
		return k.registry.Unknown(&k.conn.Caller, p.Name)
	}
	if err != nil {
		return err
	}
	signal, err := signalNamed(p.DrainSignal)
	switch {
	case err != nil:
		return err
	case len(p.Holders) > maxClaimed:
		return &protocol.LimitError{Limit: "holders in one call", Max: maxClaimed}
	case p.Generation < 0:
		return &protocol.InvalidParameterError{Parameter: "generation"}
	}
	reply := protocol.AttachReply{Network: s.Network, Address: s.Address}
	fd, err := k.received(p.FileDescriptor)
	if err != nil {
		return err
	}
	if fd == nil {
		k.conn.OpenWindow()
		return k.reply(reply, false)
	}
	return k.run(func() (any, error) {
		claim := registry.Claim{By: &k.conn.Caller, PIDs: p.Holders, DrainSignal: signal, Generation: p.Generation}
		holders, err := k.Binder.HandBack(p.Name, fd, claim)
		if err != nil {
			return nil, err
		}
		k.logHandBack(k.conn, p.Name, holders)
		return reply, nil
	})
}

// received returns a duplicate of the descriptor that the call says it carries, which the caller must close; nil
// if the call says nothing. The connection closes the one that was received once the call is answered.
func (k *call) received(index *int) (*scmrights.FD, error) {
	switch {
	case index == nil && len(k.fds) == 0:
		return nil, nil
	case index == nil || *index != 0 || len(k.fds) != 1:
		return nil, &protocol.InvalidParameterError{Parameter: "fileDescriptor"}
	}
	return k.fds[0].Dup()
}
