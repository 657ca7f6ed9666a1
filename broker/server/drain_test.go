package server_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// drain calls Drain, which must succeed.
func (c *client) drain(p protocol.DrainParameters) (reply protocol.DrainReply) {
	c.t.Helper()
	if err := c.call(protocol.MethodDrain, p, &reply); err != nil {
		c.t.Fatal(err)
	}
	return reply
}

func all(names ...string) protocol.DrainParameters { return protocol.DrainParameters{Names: names} }

func older(before int64, names ...string) protocol.DrainParameters {
	return protocol.DrainParameters{Names: names, Before: &before}
}

// hold makes a grant that lasts as long as its connection.
func (b *broker) hold(t testing.TB, p protocol.GetParameters) (c *client, grant int64) {
	t.Helper()
	c = b.client(t)
	c.send(getMore(p))
	reply, _ := c.got()
	return c, reply.Grant
}

// wantEvent checks that the next reply tells of that event.
func (c *client) wantEvent(grant int64, event string, continues bool) {
	c.t.Helper()
	r, fds := c.reply()
	var g protocol.GetReply
	if r.Err == nil {
		r.Err = protocol.DecodeParameters(r.Parameters, &g)
	}
	if r.Err != nil || len(fds) > 0 || g.Grant != grant || g.Event != event || r.Continues != continues {
		c.t.Errorf("got %s %v continues=%v, want %s of grant %d", r.Parameters, r.Err, r.Continues, event, grant)
	}
}

// states returns the states of grants and requests, by id.
func (b *broker) states(t testing.TB) map[int64]string {
	t.Helper()
	states := make(map[int64]string)
	for _, h := range b.client(t).list().Holders {
		states[h.Grant] = h.State
	}
	return states
}

// TestDrainSignal: a process gets the signal that it has named, and no other process does.
func TestDrainSignal(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0", "other=127.0.0.1:0")
	for _, c := range []struct {
		name string
		want syscall.Signal
	}{{"TERM", syscall.SIGTERM}, {"HUP", syscall.SIGHUP}, {"INT", syscall.SIGINT}, {"KILL", syscall.SIGKILL}} {
		t.Run(c.name, func(t *testing.T) {
			w, bystander := b.spawn(t), b.spawn(t)
			defer bystander.kill()
			for _, err := range []error{
				w.call(getOnce(protocol.GetParameters{Names: []string{"web"}, DrainSignal: c.name})),
				bystander.call(getOnce(protocol.GetParameters{Names: []string{"other"}, DrainSignal: c.name})),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if got := b.client(t).drain(all("web")); got.Drained != 1 || got.Left != nil || got.Failed != 0 {
				t.Errorf("got %+v", got)
			}
			_ = w.cmd.Wait()
			if is := w.cmd.ProcessState.Sys().(syscall.WaitStatus); !is.Signaled() || is.Signal() != c.want {
				t.Errorf("the worker exited by %v, want %v", w.cmd.ProcessState, c.want)
			}
			b.held(t, "web", 0, 0)
			if err := bystander.call(get("other")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDrainSignalBehindExec: the process is asked to leave, also if it has executed another program.
func TestDrainSignalBehindExec(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	w := b.spawn(t)
	if err := w.call(getOnce(protocol.GetParameters{Names: []string{"web"}, DrainSignal: "TERM"})); err != nil {
		t.Fatal(err)
	}
	w.tell("exec")
	b.client(t).drain(all("web"))
	_ = w.cmd.Wait()
	if is := w.cmd.ProcessState.Sys().(syscall.WaitStatus); !is.Signaled() || is.Signal() != syscall.SIGTERM {
		t.Errorf("the worker exited by %v", w.cmd.ProcessState)
	}
}

// TestDrainWithoutSignal: a holder that has named no signal is draining, and goes on.
func TestDrainWithoutSignal(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	w := b.spawn(t)
	defer w.kill()
	if err := w.call(get("web")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it is asked once, and counted as long as it is there
		if got := b.client(t).drain(all("web")); got.Drained != 1 {
			t.Errorf("got %+v", got)
		}
		if got := b.states(t); got[1] != protocol.StateDraining {
			t.Errorf("got %v", got)
		}
	}
	if err := w.call(get("web")); err != nil {
		t.Error(err)
	}
}

// holdWays are the ways to hold a grant that lasts as long as a connection: with the first call and with a
// later one, at once and after a wait.
func holdWays(b *broker) map[string]func(t *testing.T) (*client, int64) {
	p := protocol.GetParameters{Names: []string{"web"}}
	await := func(t *testing.T, c *client) (*client, int64) {
		if err := b.Unbind("web"); err != nil {
			t.Fatal(err)
		}
		c.send(getMore(protocol.GetParameters{Names: p.Names, Wait: true}))
		fdtest.Eventually(t, "it waits", func() bool { return len(b.states(t)) == 1 })
		b.bind(t, "web=127.0.0.1:0")
		reply, _ := c.got()
		return c, reply.Grant
	}
	return map[string]func(t *testing.T) (*client, int64){
		"Get": func(t *testing.T) (*client, int64) { return b.hold(t, p) },
		"another call first": func(t *testing.T) (*client, int64) {
			c := b.client(t)
			c.alive() // a call of another method comes first
			c.send(getMore(p))
			reply, _ := c.got()
			return c, reply.Grant
		},
		"waited for": func(t *testing.T) (*client, int64) { return await(t, b.client(t)) },
		"waited for, with another call first": func(t *testing.T) (*client, int64) {
			c := b.client(t)
			c.alive()
			return await(t, c)
		},
	}
}

// TestDrainEvent: a connection is told once, and its grant goes on until it ends.
func TestDrainEvent(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	for name, hold := range holdWays(b) {
		t.Run(name, func(t *testing.T) {
			c, grant := hold(t)
			if got := b.client(t).drain(all("web")); got.Drained != 1 {
				t.Errorf("got %+v", got)
			}
			c.wantEvent(grant, protocol.EventDrain, true)
			if got := b.states(t); got[grant] != protocol.StateDraining {
				t.Errorf("got %v", got)
			}
			if got := b.client(t).drain(all("web")); got.Drained != 1 {
				t.Errorf("asked again: got %+v", got)
			}
			if err := b.Unbind("web"); err != nil {
				t.Fatal(err)
			}
			c.wantEvent(grant, protocol.EventUnbound, false)
			c.alive()
			b.bind(t, "web=127.0.0.1:0")
		})
	}
}

// TestDrainBehindUnreadReply: the event comes behind the sockets, also if the client has not read these
// yet.
func TestDrainBehindUnreadReply(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	for name, before := range map[string]func(*client){"Get": func(*client) {}, "another call first": (*client).alive} {
		t.Run(name, func(t *testing.T) {
			c := b.client(t)
			before(c)
			c.send(getMore(protocol.GetParameters{Names: []string{"web"}}))
			b.held(t, "web", 1, 0)
			b.client(t).drain(all("web"))
			reply, fds := c.got()
			if len(fds) != 1 || len(reply.Sockets) != 1 {
				t.Errorf("got %+v with %d descriptors", reply, len(fds))
			}
			c.wantEvent(reply.Grant, protocol.EventDrain, true)
			c.close()
			b.held(t, "web", 0, 0)
		})
	}
}

// TestDrainBefore: the generation decides, which is the grant's id if the holder has named none.
func TestDrainBefore(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0", "api=127.0.0.1:0")
	c := b.client(t)
	web := []string{"web"}
	_, first := b.hold(t, protocol.GetParameters{Names: web})
	_, second := b.hold(t, protocol.GetParameters{Names: web})
	_, late := b.hold(t, protocol.GetParameters{Names: web, Generation: first}) // as old as the first
	_, both := b.hold(t, protocol.GetParameters{Names: []string{"api", "web"}})
	_, other := b.hold(t, protocol.GetParameters{Names: []string{"api"}, Generation: first})
	for _, h := range c.list().Holders {
		want := h.Grant
		if h.Grant == late || h.Grant == other {
			want = first
		}
		if h.Generation != want {
			t.Errorf("grant %d is of generation %d, want %d", h.Grant, h.Generation, want)
		}
	}
	draining := func() (ids []int64) {
		for id, state := range b.states(t) {
			if state == protocol.StateDraining {
				ids = append(ids, id)
			}
		}
		slices.Sort(ids)
		return ids
	}
	for _, step := range []struct {
		p       protocol.DrainParameters
		drained int
		want    []int64
	}{
		{older(0, "web"), 0, nil},
		{older(first, "web"), 0, nil},
		{older(second, "web"), 2, []int64{first, late}},
		{older(second, "web"), 2, []int64{first, late}}, // no new ones
		{older(1<<62, "web"), 4, []int64{first, second, late, both}},
		{all("web", "api"), 5, []int64{first, second, late, both, other}}, // the one with both names counts once
	} {
		if got := c.drain(step.p); got.Drained != step.drained {
			t.Errorf("%+v: got %+v, want %d", step.p, got, step.drained)
		}
		if got := draining(); !slices.Equal(got, step.want) {
			t.Errorf("%+v: %v are draining, want %v", step.p, got, step.want)
		}
	}
}

// TestDrainWithMore: a client that waits for the holders to leave is told of each.
func TestDrainWithMore(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	one, _ := b.hold(t, protocol.GetParameters{Names: []string{"web"}})
	two := b.spawn(t)
	if err := two.call(get("web")); err != nil {
		t.Fatal(err)
	}
	b.client(t).drain(all("web")) // those that were asked earlier count
	c, giver := b.client(t), b.client(t)
	drain := call{protocol.Call{Method: protocol.MethodDrain, More: true}, all("web")}
	c.send(drain)
	giver.send(drain)
	wantLeft := func(left int) {
		t.Helper()
		r, _ := c.reply()
		var reply protocol.DrainReply
		err := protocol.DecodeParameters(r.Parameters, &reply)
		if errors.Join(r.Err, err) != nil || reply.Drained != 2 || reply.Left == nil || *reply.Left != left || r.Continues != (left > 0) {
			t.Errorf("got %s %v continues=%v, want %d left", r.Parameters, r.Err, r.Continues, left)
		}
	}
	wantLeft(2)
	giver.reply()
	giver.close() // a client that gives up changes nothing for others
	_, newcomer := b.hold(t, protocol.GetParameters{Names: []string{"web"}})
	one.close()
	wantLeft(1)
	two.kill()
	wantLeft(0)
	c.alive()
	if got := b.states(t); got[newcomer] != protocol.StateActive {
		t.Errorf("got %v", got)
	}
	c.send(call{protocol.Call{Method: protocol.MethodDrain, More: true}, older(1, "web")})
	if r, _ := c.reply(); r.Continues || r.Err != nil || string(r.Parameters) != `{"drained":0,"left":0}` {
		t.Errorf("got %s %v", r.Parameters, r.Err)
	}
	c.send(call{protocol.Call{Method: protocol.MethodDrain, More: true, Oneway: true}, all("web")})
	c.alive()
	if got := b.states(t); got[newcomer] != protocol.StateDraining {
		t.Errorf("got %v", got)
	}
}

// TestDrainAllOrNone: if one name is wrong, no holder is asked to leave.
func TestDrainAllOrNone(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0,allow=any", "root=127.0.0.1:0")
	_, grant := b.hold(t, protocol.GetParameters{Names: []string{"web"}})
	c := b.client(t)
	if err := c.call(protocol.MethodDrain, all("web", "none"), nil); !errors.Is(err, protocol.ErrUnknownName) {
		t.Errorf("got %v", err)
	}
	if err := b.spawn(t, alice, alice).call(method(protocol.MethodDrain, all("web", "root"))); !errors.Is(err, protocol.ErrDenied) {
		t.Errorf("got %v", err)
	}
	for _, p := range []any{
		all(), all("web", "web"), older(-1, "web"), map[string]any{"names": "web"}, nil,
	} {
		err := c.call(protocol.MethodDrain, p, nil)
		if _, ok := errors.AsType[*protocol.InvalidParameterError](err); !ok {
			t.Errorf("%v: got %v", p, err)
		}
	}
	if got := b.states(t); got[grant] != protocol.StateActive {
		t.Errorf("got %v", got)
	}
}

// TestDrainUnserved: the reply names the listeners that are left to nobody, and only those.
func TestDrainUnserved(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0", "b=127.0.0.1:0", "c=127.0.0.1:0,max=1", "idle=127.0.0.1:0")
	names := []string{"a", "b", "c", "idle"}
	old, first := b.hold(t, protocol.GetParameters{Names: []string{"a", "b", "c"}})
	standby := b.client(t)
	standby.send(call{protocol.Call{Method: protocol.MethodGet, More: true}, protocol.GetParameters{Names: []string{"c"}, Wait: true}})
	b.held(t, "c", 1, 1)
	if _, later := b.hold(t, protocol.GetParameters{Names: []string{"b"}}); later <= first {
		t.Fatalf("grants %d and %d", first, later)
	}
	c := b.client(t)
	for _, step := range []struct {
		p    protocol.DrainParameters
		want []string
	}{
		{older(first, names...), nil}, {older(first+1, names...), []string{"a"}}, {all("idle"), nil},
		{older(first+1, names...), []string{"a"}}, // nothing has changed
		{all(names...), []string{"a", "b", "c"}},  // the standby is turned away, too
	} {
		if got := c.drain(step.p); !slices.Equal(got.Unserved, step.want) {
			t.Errorf("%+v: %q, want %q", step.p, got.Unserved, step.want)
		}
	}
	c.send(call{protocol.Call{Method: protocol.MethodDrain, More: true}, all("a")})
	for _, want := range []string{`{"drained":1,"left":1,"unserved":["a"]}`, `{"drained":1,"left":0}`} {
		if r, _ := c.reply(); r.Err != nil || string(r.Parameters) != want {
			t.Errorf("got %s %v, want %s", r.Parameters, r.Err, want)
		}
		old.close()
	}
	if n := len(b.logs.lines(`"asked":1,"unreachable":0,"left_to_nobody":["a"]`)); n != 3 {
		t.Errorf("%d log lines", n)
	}
}

// TestDrainOfOnesOwn: a user drains its own processes, and no others.
func TestDrainOfOnesOwn(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0,allow=any")
	roots, rootGrant := b.hold(t, protocol.GetParameters{Names: []string{"web"}})
	w := map[uint32]*worker{alice: b.spawn(t, alice, alice), bob: b.spawn(t, bob, bob)}
	for _, w := range w {
		defer w.kill()
		if err := w.call(getOnce(protocol.GetParameters{Names: []string{"web"}, DrainSignal: "TERM"})); err != nil {
			t.Fatal(err)
		}
	}
	drainer := b.spawn(t, alice, alice)
	drainer.ask(method(protocol.MethodDrain, all("web")))
	if r, _ := drainer.answer(); r.Err != nil || string(r.Parameters) != `{"drained":1}` {
		t.Errorf("got %s %v", r.Parameters, r.Err)
	}
	_ = w[alice].cmd.Wait()
	b.held(t, "web", 2, 0)
	for _, h := range b.client(t).list().Holders {
		if h.State != protocol.StateActive {
			t.Errorf("got %+v", h)
		}
	}
	// Alice has drained her own processes, also if they come later.
	old := getOnce(protocol.GetParameters{Names: []string{"web"}, Generation: rootGrant})
	if err := drainer.call(old); !errors.Is(err, protocol.ErrReplaced) {
		t.Errorf("alice: got %v", err)
	}
	if err := b.spawn(t, bob, bob).call(old); err != nil {
		t.Errorf("bob: got %v", err)
	}
	roots.close()
}

// TestDrainCannotSignal: a broker that may not signal a process says so, and does not count it.
func TestDrainCannotSignal(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	give(t, dir, alice)
	path := filepath.Join(dir, "c")
	cmd := fdtest.Helper(t, "broker", path, `["web=127.0.0.1:0"]`, "0")
	asUser(t, cmd, alice, alice)
	defer startHelper(t, cmd)()
	b := &broker{path: path}
	w := b.spawn(t)
	defer w.kill()
	if err := w.call(getOnce(protocol.GetParameters{Names: []string{"web"}, DrainSignal: "TERM"})); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := b.client(t).drain(all("web")); got.Drained != 0 || got.Failed != 1 {
			t.Errorf("got %+v", got)
		}
		if got := b.states(t); got[1] != protocol.StateActive {
			t.Errorf("got %v", got)
		}
	}
}

// TestDrainSignalIsTheUsers: a process that has become another user's gets no signal that its first user
// chose.
func TestDrainSignalIsTheUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user for a while")
	}
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0,allow=any")
	w := b.spawn(t)
	defer w.kill()
	w.tell("user " + fmt.Sprint(alice)) // connects as alice, and goes on as root
	if err := w.call(getOnce(protocol.GetParameters{Names: []string{"web"}, DrainSignal: "KILL"})); err != nil {
		t.Fatal(err)
	}
	if got := b.client(t).drain(all("web")); got.Drained != 0 || got.Failed != 1 {
		t.Errorf("got %+v", got)
	}
	if len(b.logs.lines("cannot send the drain signal", "belongs to another user")) != 1 {
		t.Error("nothing in the log says why")
	}
	if err := w.call(get("web")); err != nil {
		t.Error(err)
	}
}

func TestDrainSignalNames(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	c := b.client(t)
	for _, p := range []protocol.GetParameters{
		{DrainSignal: "SIGTERM"}, {DrainSignal: "term"}, {DrainSignal: "15"}, {DrainSignal: "NONE"}, {DrainSignal: " TERM"},
		{Generation: -1}, {Generation: 1 << 53}, {Generation: -1 << 63},
	} {
		want := "drainSignal"
		if p.Generation != 0 {
			want = "generation"
		}
		p.Names = []string{"web"}
		for _, k := range []call{getOnce(p), getMore(p)} {
			for _, c := range []*client{c, b.client(t)} { // a connection with an earlier call, and a new one
				c.send(k)
				err := c.refused()
				if e, ok := errors.AsType[*protocol.InvalidParameterError](err); !ok || e.Parameter != want {
					t.Errorf("%+v: got %v", p, err)
				}
			}
		}
	}
	if got := b.listener(t, "web"); got.Holders != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestWatchDrain(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	w := b.client(t)
	w.send(watch)
	w.event()
	c, _ := b.hold(t, protocol.GetParameters{Names: []string{"web"}})
	worker := b.spawn(t)
	if err := worker.call(getOnce(protocol.GetParameters{Names: []string{"web"}, DrainSignal: "TERM"})); err != nil {
		t.Fatal(err)
	}
	b.client(t).drain(older(2, "web"))
	c.close()
	b.held(t, "web", 1, 0)
	b.client(t).drain(all("web"))
	_ = worker.cmd.Wait()
	var got []string
	for range 6 {
		e, _ := w.event()
		got = append(got, constant(e))
		if e.What == protocol.EventDraining && e.Holder.State != protocol.StateDraining {
			t.Errorf("got %+v", e.Holder)
		}
	}
	want := []string{
		"granted grant=1 web", "granted grant=2 web", "draining grant=1 web", "ended grant=1 web (drained)",
		"draining grant=2 web", "ended grant=2 web (drained)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
