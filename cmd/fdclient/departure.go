//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
)

// departure is a drain that is waited for. Where the broker goes meanwhile, the next one
// is asked the same: who was asked before is not asked again, but counts.
type departure struct {
	command
	client *broker.Client
	before int64 // 0: everybody

	// What there was at the beginning: the processes of the grants, by id. Nil: not known.
	known map[int64]int
	again int64 // what before is when the call is made again: nobody who has come since

	asked int // -1: there was no answer yet
	left  int
}

// errOtherBroker says that the broker which has asked the holders to leave is gone for
// good.
var errOtherBroker = errors.New("another broker answers now, and it does not know who was asked to leave: see 'fdclient list', and drain again where that is needed")

// follow asks, until all have left or ctx is done.
func (d *departure) follow(ctx context.Context) error {
	said := false
	for wait := lookMin; ; wait = min(2*wait, lookMax) {
		err := d.ask(ctx)
		none := errors.Is(err, broker.ErrNoBroker)
		if none && d.known == nil || !none && !errors.Is(err, broker.ErrLost) {
			return err
		}
		if none && !said && ctx.Err() == nil {
			said = true
			complain(d.err, fmt.Errorf("waiting: %w", err))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask makes the call, and follows what it tells.
func (d *departure) ask(ctx context.Context) error {
	list, err := d.client.List(ctx)
	if err != nil {
		return err
	}
	before := d.again
	if d.known == nil {
		d.remember(list)
		before = d.before
	} else if !d.continues(list) {
		return errOtherBroker
	}
	_, err = d.client.Drain(ctx, broker.DrainOptions{Before: before, Progress: d.progress}, d.args...)
	return err
}

// remember notes what there is. Ids come from one counter, so that whoever comes later has
// a greater one. Who comes between this and the first call is asked by that, but does not
// count in one that is made again.
func (d *departure) remember(list protocol.ListReply) {
	d.known = make(map[int64]int)
	d.again = 1
	for _, h := range list.Holders {
		d.known[h.Grant] = h.PID
		d.again = max(d.again, h.Grant+1)
	}
	if d.before != 0 {
		d.again = min(d.before, d.again)
	}
}

// continues reports whether list is of a broker that goes on with what there was: one that
// has begun anew counts from 1 again.
func (d *departure) continues(list protocol.ListReply) bool {
	for _, h := range list.Holders {
		pid, known := d.known[h.Grant]
		if h.Grant < d.again && (!known || pid != h.PID) {
			return false
		}
	}
	return true
}

// progress notes how many have not left.
func (d *departure) progress(left int) {
	if d.left = left; d.asked < 0 {
		d.asked = left
		fmt.Fprintln(d.out, asked(left))
	}
}
