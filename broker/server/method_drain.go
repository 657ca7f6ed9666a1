package server

import (
	"time"

	"github.com/fdbroker/fdbroker/broker/server/conn"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/protocol"
)

// ackTime is how long a deploy has to act on its replacement: its workers are not asked to leave before, so
// that it does not start them again.
const ackTime = 100 * time.Millisecond

// drain answers Drain.
func (k *call) drain() error {
	var p protocol.DrainParameters
	if err := protocol.DecodeParameters(k.Parameters, &p); err != nil {
		return err
	}
	if err := k.checkNames(p.Names); err != nil {
		return err
	}
	if p.Before != nil && *p.Before < 0 {
		return &protocol.InvalidParameterError{Parameter: "before"}
	}
	d, err := k.registry.Drain(&k.conn.Caller, k.conn, p.Names, p.Before)
	if err != nil {
		return err
	}
	if k.registry.Acknowledged(d) {
		return k.askToLeave(d, p.Names)
	}
	limit, asked := time.Now().Add(ackTime), false
	k.conn.Park(&conn.Parked{
		Until: limit,
		Step: func() error {
			if !k.registry.Acknowledged(d) && time.Now().Before(limit) {
				return nil
			}
			asked = true
			k.conn.Done()
			return k.askToLeave(d, p.Names)
		},
		End: func(bool) {
			if !asked { // the client is gone: a drain has both steps all the same
				_, _ = k.ask(d, p.Names, false)
			}
		},
	})
	return nil
}

// ask asks the drained grants to leave: see [registry.Registry.AskToLeave].
func (k *call) ask(d *registry.Drain, names []string, follow bool) (asked registry.Asked, err error) {
	if asked, err = k.registry.AskToLeave(d, follow); err == nil {
		l := k.infoFor(k.conn).Strs("names", names).Int("asked", asked.Count).Int("unreachable", asked.Failed)
		if len(asked.Unserved) > 0 {
			l.Strs("left_to_nobody", asked.Unserved)
		}
		addPeer(l, k.conn.Caller.Peer)
		l.Msg("asked holders to leave")
	}
	return asked, err
}

// askToLeave asks the drained grants to leave, and with more tells the client as they do.
func (k *call) askToLeave(d *registry.Drain, names []string) error {
	follow := k.More && !k.Oneway
	asked, err := k.ask(d, names, follow)
	if err != nil {
		return err
	}
	reply := protocol.DrainReply{Drained: asked.Count, Failed: asked.Failed, Unserved: asked.Unserved}
	if !follow {
		return k.reply(reply, false)
	}
	left := asked.Count
	send := func() error {
		reply.Left = new(left)
		return k.reply(reply, left > 0)
	}
	if left > 0 {
		k.conn.Park(&conn.Parked{
			Step: func() error {
				now := k.registry.Left(d)
				if now == left {
					return nil
				}
				if left = now; left == 0 {
					k.conn.Done()
				}
				reply.Unserved = nil // was said
				return send()
			},
			End: func(bool) { k.registry.Unfollow(d) },
		})
	}
	return send()
}
