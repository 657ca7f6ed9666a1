//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// call is what one connection of a broker that the test plays is asked, and its answers.
type call struct {
	method  string
	before  int64
	replies []any
}

// play answers calls, in this order, and closes the connection behind each.
func play(t *testing.T, calls ...call) (path string) {
	t.Helper()
	path = filepath.Join(fdtest.SocketDir(t), "c")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	t.Cleanup(func() {
		_ = ln.Close()
		<-over
	})
	go func() {
		defer close(over)
		for i, c := range calls {
			conn, err := ln.Accept()
			if err != nil {
				t.Errorf("call %d never came", i+1)
				return
			}
			c.answer(t, conn)
			_ = conn.Close()
		}
	}()
	return path
}

func (c call) answer(t *testing.T, conn net.Conn) {
	b, err := bufio.NewReader(conn).ReadBytes(0)
	if err != nil {
		t.Errorf("%s: %v", c.method, err)
		return
	}
	asked, err := protocol.DecodeCall(b[:len(b)-1])
	var p protocol.DrainParameters
	if err == nil {
		err = protocol.DecodeParameters(asked.Parameters, &p)
	}
	var before int64
	if p.Before != nil {
		before = *p.Before
	}
	if err != nil || asked.Method != c.method || before != c.before {
		t.Errorf("the call is %s before %d, %v; want %s before %d", asked.Method, before, err, c.method, c.before)
	}
	for _, r := range c.replies {
		reply, err := protocol.AppendReply(nil, r, asked.More)
		if err != nil {
			t.Error(err)
		}
		_, _ = conn.Write(reply)
	}
}

// list is a call of List, which is answered by holders with these pids, from grant 1 on; 0
// is none.
func list(pids ...int) call {
	var reply protocol.ListReply
	for i, pid := range pids {
		if pid != 0 {
			reply.Holders = append(reply.Holders, protocol.Holder{Grant: int64(i + 1), PID: pid, Names: []string{"web"}})
		}
	}
	return call{protocol.MethodList, 0, []any{reply}}
}

// drained is a call of Drain, of which the answers say how many are left.
func drained(before int64, left ...int) call {
	c := call{protocol.MethodDrain, before, nil}
	for _, n := range left {
		c.replies = append(c.replies, protocol.DrainReply{Drained: left[0], Left: new(n)})
	}
	return c
}

// TestDrainGoesOn: where the broker goes while a drain waits, the next one is asked about
// the same holders, and about nobody who has come since.
func TestDrainGoesOn(t *testing.T) {
	for _, test := range []struct {
		name   string
		before int64
		calls  []call
		stdout string
		err    error
	}{
		{"all", 0, []call{
			list(11, 0, 13), drained(0, 2, 1), list(0, 0, 13, 14), drained(4, 1, 0),
		}, "2 holders were asked to leave\n2 of 2 left\n", nil},
		{"before", 3, []call{
			list(11, 12, 13), drained(3, 2), list(11, 12, 13, 14), drained(3, 2, 1), list(11, 0, 13, 14), drained(3, 1, 0),
		}, "2 holders were asked to leave\n2 of 2 left\n", nil},
		{"before what will be", 99, []call{
			list(11), drained(99, 1), list(11, 12), drained(2, 1, 0),
		}, "1 holder was asked to leave\n1 of 1 left\n", nil},
		{"lost before the answer", 0, []call{
			list(11), drained(0), list(11, 12), drained(2, 1, 0),
		}, "1 holder was asked to leave\n1 of 1 left\n", nil},
		{"lost at the list", 0, []call{
			list(11), drained(0, 1), {protocol.MethodList, 0, nil}, list(11), drained(2, 1, 0),
		}, "1 holder was asked to leave\n1 of 1 left\n", nil},
		{"another broker", 0, []call{
			list(11, 12), drained(0, 2), list(12),
		}, "2 holders were asked to leave\n", errOtherBroker},
	} {
		t.Run(test.name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			client := broker.Client{Socket: play(t, test.calls...)}
			defer client.Close()
			var stdout, stderr bytes.Buffer
			c := command{args: []string{"web"}, out: &stdout, err: &stderr}
			err := drain(context.Background(), c, &client, test.before, time.Hour)
			if !errors.Is(err, test.err) || stdout.String() != test.stdout || stderr.Len() > 0 {
				t.Errorf("got %v, %s, %s", err, &stdout, &stderr)
			}
		})
	}
}

// TestDrainWaitsForBroker: one that does not come back is waited for until the time is
// over, and one that was never there is not.
func TestDrainWaitsForBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	client := broker.Client{Socket: dir + "/none"}
	defer client.Close()
	var stdout, stderr bytes.Buffer
	c := command{args: []string{"web"}, out: &stdout, err: &stderr}
	if err := drain(context.Background(), c, &client, 0, time.Hour); !errors.Is(err, broker.ErrNoBroker) || stderr.Len() > 0 {
		t.Errorf("without a broker: got %v, %s", err, &stderr)
	}
	d := departure{command: c, client: &client, known: map[int64]int{}, asked: 1, left: 1}
	ctx, cancel := context.WithCancel(context.Background())
	d.err = writer(func(b []byte) { // it waits
		stderr.Write(b)
		cancel()
	})
	if err := d.follow(ctx); !errors.Is(err, context.Canceled) || !bytes.HasPrefix(stderr.Bytes(), []byte("fdclient: waiting: no broker answers at ")) {
		t.Errorf("where it has gone: got %v, %s", err, &stderr)
	}
}

// writer is an [io.Writer] that never fails.
type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}
