package server

import (
	"time"

	"github.com/fdbroker/fdbroker/broker/server/conn"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/protocol"
)

// deploy answers Deploy until the deploy is replaced or the peer goes.
func (k *call) deploy() error {
	if !k.More || k.Oneway {
		return &protocol.ExpectedMoreError{}
	}
	var p protocol.DeployParameters
	if err := protocol.DecodeParameters(k.Parameters, &p); err != nil {
		return err
	}
	if p.Generation < 0 || p.Generation > registry.MaxID {
		return &protocol.InvalidParameterError{Parameter: "generation"}
	}
	if len(p.Names) > 0 {
		if err := k.checkNames(p.Names); err != nil {
			return err
		}
	}
	d, err := k.registry.Enroll(&k.conn.Caller, k.conn, p.Names, p.Generation, p.Rolls)
	if err != nil {
		return err
	}
	leave := func(bool) { k.registry.Leave(d) }
	k.conn.Park(&conn.Parked{
		Step: func() error {
			switch {
			case k.registry.Replaced(d):
				k.awaitAck(leave)
				return k.reply(protocol.DeployReply{Generation: d.ID(), Event: protocol.EventDrain}, false)
			case k.registry.TakeRoll(d):
				return k.reply(protocol.DeployReply{Generation: d.ID(), Event: protocol.EventRoll}, true)
			}
			return nil
		},
		End: leave,
	})
	return k.reply(protocol.DeployReply{Generation: d.ID()}, true)
}

// awaitAck waits until the client has acted on its replacement: it closes the connection or sends anything
// more, or ackTime passes.
func (k *call) awaitAck(leave func(bool)) {
	until := time.Now().Add(ackTime)
	k.conn.Park(&conn.Parked{
		Until:       until,
		EndsOnInput: true,
		Step: func() error {
			if !time.Now().Before(until) {
				k.conn.Done()
			}
			return nil
		},
		End: leave,
	})
}
