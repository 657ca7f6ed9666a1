package server

import (
	"time"

	"github.com/fdbroker/fdbroker/broker/server/conn"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/protocol"
)

// watch answers Watch until the peer goes, or is too slow to be sent everything. A peer that does not read is waited
// for without limit: what happens meanwhile is bounded by the queue, and the last event says that events are missing.
func (k *call) watch() error {
	switch {
	case !k.conn.Caller.Privileged:
		return &protocol.PermissionDeniedError{}
	case !k.More || k.Oneway:
		return &protocol.ExpectedMoreError{}
	}
	first := []protocol.Event{{What: protocol.EventWatching, Time: time.Now().UnixMicro()}}
	if t := k.taken; !t.at.IsZero() && time.Since(t.at) < restartedTime {
		first = append(first, protocol.Event{What: protocol.EventRestarted, Time: t.at.UnixMicro(), Why: t.why})
	}
	w := k.registry.Watch(k.conn, first...)
	k.conn.Park(&conn.Parked{
		Patient: true,
		Step: func() error {
			if events := k.registry.Take(w); len(events) > 0 {
				k.sendEvents(events)
			}
			return nil
		},
		End: func(bool) { k.registry.Unwatch(w) },
	})
	return nil
}

// sendEvents sends events, with the commands of their holders, which are read from /proc.
func (k *call) sendEvents(events []protocol.Event) {
	k.conn.Run(func() func() error {
		var b []byte
		var err error
		over := false
		for _, e := range events {
			if h := e.Holder; h != nil && e.What != protocol.EventEnded {
				named := *h // other watchers are sent the same holder
				named.Command = procfs.Command(h.PID)
				e.Holder = &named
			}
			over = e.What == protocol.EventOverflow
			if b, err = protocol.AppendReply(b, protocol.WatchReply{Event: e}, !over); err != nil {
				break
			}
		}
		return func() error {
			if over {
				k.conn.Done()
			}
			if err != nil {
				return err
			}
			return k.conn.Send(b)
		}
	})
}
