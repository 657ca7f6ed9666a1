package server_test

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

func deploy(generation int64, names ...string) call {
	p := protocol.DeployParameters{Names: append([]string{}, names...), Generation: generation, Rolls: true}
	return call{protocol.Call{Method: protocol.MethodDeploy, More: true}, p}
}

// deploy begins a deploy, which goes on as long as its connection.
func (b *broker) deploy(t testing.TB, names ...string) (c *client, generation int64) {
	t.Helper()
	c = b.client(t)
	c.send(deploy(0, names...))
	reply, continues := c.deployed()
	if reply.Event != "" || reply.Generation < 1 || !continues {
		t.Fatalf("got %+v", reply)
	}
	return c, reply.Generation
}

func (c *client) deployed() (reply protocol.DeployReply, continues bool) {
	c.t.Helper()
	r, fds := c.reply()
	if r.Err == nil {
		r.Err = protocol.DecodeParameters(r.Parameters, &reply)
	}
	if r.Err != nil || len(fds) > 0 {
		c.t.Fatalf("got %v with %d descriptors", r.Err, len(fds))
	}
	return reply, r.Continues
}

// replaced waits until the deploy is told that a newer one has replaced it.
func (c *client) replaced(generation int64) {
	c.t.Helper()
	if reply, continues := c.deployed(); reply.Event != protocol.EventDrain || reply.Generation != generation || continues {
		c.t.Errorf("got %+v continues=%v, want drain of %d", reply, continues, generation)
	}
}

// wasToldNothing ends the connection, and checks that nothing has come over it.
func (c *client) wasToldNothing() {
	c.t.Helper()
	_ = c.uc.CloseWrite()
	c.ended()
}

// TestDeployIsTold: a deploy is told of the drains that replace it, and of no others.
func TestDeployIsTold(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0", "api=127.0.0.1:0")
	c := b.client(t)
	first, one := b.deploy(t, "web", "later")
	second, two := b.deploy(t, "web")
	nameless, three := b.deploy(t)
	if one >= two || two >= three {
		t.Errorf("generations %d, %d, %d do not grow", one, two, three)
	}
	b.hold(t, protocol.GetParameters{Names: []string{"api"}, Generation: three})
	c.drain(older(one, "web"))
	untold, _ := b.deploy(t, "web", "later")
	c.drain(all("api")) // only the third one's worker holds it, and no other deploy names it
	nameless.replaced(three)
	untold.wasToldNothing()
	untold, _ = b.deploy(t, "web")
	c.drain(older(two, "web"))
	first.replaced(one)
	untold.wasToldNothing()
	c.drain(all("web"))
	second.replaced(two)
	second.alive() // the connection goes on
}

// TestDeployIsToldFirst: a deploy is told that its workers are asked to leave before any of them leaves, so
// that it starts no others.
func TestDeployIsToldFirst(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	for range 20 {
		d, generation := b.deploy(t, "web")
		worker, grant := b.hold(t, protocol.GetParameters{Names: []string{"web"}, Generation: generation})
		b.client(t).send(method(protocol.MethodDrain, all("web")))
		if first := firstReadable(t, d, worker); first != d {
			t.Error("the worker was told first")
		}
		d.replaced(generation)
		d.close() // which says that it has acted on it
		worker.wantEvent(grant, protocol.EventDrain, true)
		worker.close()
	}
}

// firstReadable waits until something has come for one of the clients, and returns which:
// of several the first.
func firstReadable(t *testing.T, clients ...*client) *client {
	t.Helper()
	polled := make([]unix.PollFd, len(clients))
	for i, c := range clients {
		raw, err := c.uc.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) { polled[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN} }); err != nil {
			t.Fatal(err)
		}
	}
	for {
		if n, err := unix.Poll(polled, int(patience.Milliseconds())); n == 0 || err != nil && err != unix.EINTR {
			t.Fatalf("nothing has come (%v)", err)
		}
		for i, p := range polled {
			if p.Revents != 0 {
				return clients[i]
			}
		}
	}
}

// TestDeployIsToldToRoll: a deploy is told to replace its workers if it names the listener, or one of them holds it, and
// if its client acts on that.
func TestDeployIsToldToRoll(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0", "api=127.0.0.1:0")
	named, one := b.deploy(t, "web", "later")
	nameless, two := b.deploy(t)
	other, _ := b.deploy(t, "api")
	earlier := b.client(t)
	earlier.send(call{protocol.Call{Method: protocol.MethodDeploy, More: true}, protocol.DeployParameters{Names: []string{"web"}}})
	three, _ := earlier.deployed()
	b.hold(t, protocol.GetParameters{Names: []string{"web"}, Generation: two})
	rolled := func(c *client, generation int64) {
		t.Helper()
		if reply, continues := c.deployed(); reply.Event != protocol.EventRoll || reply.Generation != generation || !continues {
			t.Errorf("got %+v continues=%v, want roll of %d", reply, continues, generation)
		}
	}
	for range 2 {
		if n := b.Roll("web"); n != 2 {
			t.Errorf("%d deploys are to roll, want 2", n)
		}
		rolled(named, one)
		rolled(nameless, two)
	}
	if n := b.Roll("later"); n != 1 {
		t.Errorf("%d deploys are to roll, want 1", n)
	}
	rolled(named, one)
	b.client(t).drain(all("web")) // a deploy that was replaced starts nothing any more
	named.replaced(one)
	nameless.replaced(two)
	earlier.replaced(three.Generation)
	if n := b.Roll("web"); n != 0 {
		t.Errorf("%d deploys are to roll, want none", n)
	}
	other.wasToldNothing()
}

// TestDeployers: a list has the clients that started deploys, with the names that these have given, or that their
// workers hold. One that was replaced is not among them.
func TestDeployers(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0", "api=127.0.0.1:0")
	named, one := b.deploy(t, "web", "later")
	_, two := b.deploy(t)
	_, three := b.deploy(t)
	b.hold(t, protocol.GetParameters{Names: []string{"web", "api"}, Generation: two})
	b.hold(t, protocol.GetParameters{Names: []string{"api"}, Generation: two})
	uid, pid := uint32(os.Geteuid()), os.Getpid()
	want := []protocol.Deployer{
		{Generation: one, Names: []string{"later", "web"}, PID: pid, UID: uid},
		{Generation: two, Names: []string{"api", "web"}, PID: pid, UID: uid},
		{Generation: three, Names: []string{}, PID: pid, UID: uid},
	}
	if got := b.client(t).list().Deployers; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	b.client(t).drain(older(one+1, "web"))
	named.replaced(one)
	if got := b.client(t).list().Deployers; !reflect.DeepEqual(got, want[1:]) {
		t.Errorf("got %+v, want %+v", got, want[1:])
	}
}

// TestDeployOfNameToCome: a deploy may name a listener that is not bound yet.
func TestDeployOfNameToCome(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	d, generation := b.deploy(t, "web")
	b.bind(t, "web=127.0.0.1:0")
	b.client(t).drain(all("web"))
	d.replaced(generation)
}

// TestReplaced: an excluded generation gets nothing more, whoever asks, whether it comes or has waited. A
// newer one does.
func TestReplaced(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0,max=1", "api=127.0.0.1:0")
	_, old := b.deploy(t, "web")
	holder, _ := b.hold(t, protocol.GetParameters{Names: []string{"web"}})
	var waiting []*client
	for i, p := range []protocol.GetParameters{
		{Names: []string{"web"}, Generation: old},
		{Names: []string{"web"}}, // as old as its request
		{Names: []string{"later", "web"}, Generation: old},
		{Names: []string{"web", "later"}, Generation: old},
	} {
		p.Wait = true
		c := b.client(t)
		c.send(getMore(p))
		b.held(t, "web", 1, i+1)
		waiting = append(waiting, c)
	}
	_, current := b.deploy(t, "web")
	newest := b.client(t)
	newest.send(getMore(protocol.GetParameters{Names: []string{"web"}, Wait: true, Generation: current}))
	b.held(t, "web", 1, 5)
	b.client(t).drain(older(current, "web"))
	for i, c := range waiting {
		err := c.refused()
		if e, ok := errors.AsType[*protocol.ReplacedError](err); !ok || e.Name != "web" || e.Generation == 0 {
			t.Errorf("%d: got %v", i, err)
		}
	}
	p := protocol.GetParameters{Names: []string{"web"}, Generation: old}
	q := protocol.GetParameters{Names: []string{"api", "web"}, Generation: old, Wait: true}
	for _, k := range []call{getMore(p), getOnce(p), getMore(q), deploy(old, "web"), deploy(old, "api", "web")} {
		c := b.client(t)
		c.send(k)
		if err := c.refused(); !errors.Is(err, protocol.ErrReplaced) {
			t.Errorf("%+v: got %v", k, err)
		}
	}
	holder.close()
	if reply, fds := newest.got(); len(fds) != 1 || b.states(t)[reply.Grant] != protocol.StateActive {
		t.Errorf("got %+v", reply)
	}
	b.hold(t, protocol.GetParameters{Names: []string{"api"}, Generation: old}) // another listener
}

// TestDeployGoesOn: a deploy that reconnects has the same generation, unless it has been replaced
// meanwhile.
func TestDeployGoesOn(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	first, generation := b.deploy(t, "web")
	first.close()
	again := b.client(t)
	again.send(deploy(generation, "web"))
	if reply, _ := again.deployed(); reply.Generation != generation {
		t.Errorf("got %+v, want %d again", reply, generation)
	}
	b.client(t).drain(older(generation+1, "web"))
	again.replaced(generation)
	late := b.client(t)
	late.send(deploy(generation, "web"))
	if err := late.refused(); !errors.Is(err, protocol.ErrReplaced) {
		t.Errorf("got %v", err)
	}
}

// TestGenerationOfEarlierBroker: a broker that has started with an empty journal counts on from the
// generations that clients name, so that no earlier one is newer than a new one.
func TestGenerationOfEarlierBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	worker, grant := b.hold(t, protocol.GetParameters{Names: []string{"web"}, Generation: 1000})
	if grant <= 1000 {
		t.Errorf("got grant %d", grant)
	}
	d := b.client(t)
	d.send(deploy(2000, "web"))
	if reply, _ := d.deployed(); reply.Generation != 2000 {
		t.Errorf("got %+v", reply)
	}
	newer, generation := b.deploy(t, "web")
	if generation <= 2000 {
		t.Errorf("got generation %d", generation)
	}
	b.client(t).drain(older(1000, "web"))
	if got := b.states(t)[grant]; got != protocol.StateActive {
		t.Errorf("the worker is %s", got)
	}
	b.client(t).drain(older(generation, "web"))
	worker.wantEvent(grant, protocol.EventDrain, true)
	d.replaced(2000)
	newer.wasToldNothing()
}

// TestGreatGeneration: whatever generation a user names, there are generations left for others.
func TestGreatGeneration(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "root=127.0.0.1:0")
	for _, generation := range []int64{1 << 52, 1<<52 + 1, 1<<53 - 1} {
		p := protocol.GetParameters{Names: []string{"root"}, Generation: generation}
		if err := b.spawn(t, alice, alice).call(call{protocol.Call{Method: protocol.MethodGet}, p}); err == nil {
			t.Errorf("generation %d: got what is root's", generation)
		}
	}
	_, generation := b.deploy(t, "root")
	worker, grant := b.hold(t, protocol.GetParameters{Names: []string{"root"}, Generation: generation})
	b.client(t).drain(all("root"))
	worker.wantEvent(grant, protocol.EventDrain, true)
}

// TestDeployIsRefused: wrong calls, and listeners of others, are refused.
func TestDeployIsRefused(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "root=127.0.0.1:0")
	c := b.client(t)
	if err := c.call(protocol.MethodDeploy, protocol.DeployParameters{Names: []string{"root"}}, nil); !isExpectedMore(err) {
		t.Errorf("without more: got %v", err)
	}
	for _, k := range []call{deploy(-1), deploy(1 << 53), deploy(0, "root", "root")} {
		c.send(k)
		if _, ok := errors.AsType[*protocol.InvalidParameterError](c.refused()); !ok {
			t.Errorf("%+v was not refused", k)
		}
	}
}

// TestDeployOfHidden: a name that is hidden from a deploy is like one that is not bound, and the deploy hears nothing of it.
func TestDeployOfHidden(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "root=127.0.0.1:0", "web=127.0.0.1:0,allow=any")
	w := b.spawn(t, alice, alice)
	if err := w.call(deploy(0, "root", "web")); err != nil {
		t.Fatal(err)
	}
	b.client(t).drain(all("root"))
	if n := len(b.client(t).list().Deployers); n != 1 {
		t.Errorf("%d deploys are left after a drain of a hidden name", n)
	}
	b.client(t).drain(all("web"))
	w.tell("next")
	var told protocol.DeployReply
	if r, _ := w.answer(); protocol.DecodeParameters(r.Parameters, &told) != nil || told.Event != protocol.EventDrain {
		t.Errorf("got %s %v", r.Parameters, r.Err)
	}
}

func isExpectedMore(err error) bool {
	_, ok := errors.AsType[*protocol.ExpectedMoreError](err)
	return ok
}

// TestDeployOfAnotherUser: a user replaces its own deploys only.
func TestDeployOfAnotherUser(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0,allow=any")
	roots, rootGeneration := b.deploy(t, "web")
	alices := b.spawn(t, alice, alice)
	if err := alices.call(deploy(0, "web")); err != nil {
		t.Fatal(err)
	}
	if err := b.spawn(t, alice, alice).call(method(protocol.MethodDrain, all("web"))); err != nil {
		t.Fatal(err)
	}
	alices.tell("next")
	var told protocol.DeployReply
	if r, _ := alices.answer(); protocol.DecodeParameters(r.Parameters, &told) != nil || told.Event != protocol.EventDrain {
		t.Errorf("got %s %v", r.Parameters, r.Err)
	}
	if got := b.spawn(t, alice, alice).deploys(rootGeneration, "web"); got <= rootGeneration {
		t.Errorf("alice's deploy goes on as root's, %d", got)
	}
	roots.wasToldNothing()
}

// party is one of two deploys at the same time.
type party struct {
	b          *broker
	deploy     *client
	generation int64
	worker     *client
	grant      int64
	refused    bool
}

// step does the next thing in a deploy: it enrolls, starts a worker, and drains the older workers once that
// has its socket.
func (p *party) step(t *testing.T, n int) {
	switch n {
	case 0:
		p.deploy, p.generation = p.b.deploy(t, "web")
	case 1:
		p.worker = p.b.client(t)
		p.worker.send(getMore(protocol.GetParameters{Names: []string{"web"}, Generation: p.generation}))
		r, _ := p.worker.reply()
		var reply protocol.GetReply
		_ = protocol.DecodeParameters(r.Parameters, &reply)
		if p.grant, p.refused = reply.Grant, errors.Is(r.Err, protocol.ErrReplaced); r.Err != nil && !p.refused {
			t.Fatal(r.Err)
		}
	case 2:
		if !p.refused {
			p.b.client(t).drain(older(p.generation, "web"))
		}
	}
}

// TestTwoDeploysAtOnce: in whatever order the steps of two deploys come, the newer one's worker stays, and
// the older one's is told to leave or never gets the socket. The same is true of a worker that each starts
// at the end.
func TestTwoDeploysAtOnce(t *testing.T) {
	fdtest.CheckLeaks(t)
	for order := range 1 << 6 {
		var steps [2]int
		for i := range 6 {
			steps[order>>i&1]++
		}
		if steps[0] != 3 {
			continue
		}
		t.Run(fmt.Sprintf("%06b", order), func(t *testing.T) {
			b := start(t, server.Config{}, "web=127.0.0.1:0")
			_, v0 := b.hold(t, protocol.GetParameters{Names: []string{"web"}})
			parties := [2]*party{{b: b}, {b: b}}
			done := [2]int{}
			for i := range 6 {
				party := order >> i & 1
				parties[party].step(t, done[party])
				done[party]++
			}
			older, newer := parties[0], parties[1]
			if older.generation > newer.generation {
				older, newer = newer, older
			}
			states := b.states(t)
			if newer.refused || states[newer.grant] != protocol.StateActive {
				t.Errorf("the newer deploy's worker is %q", states[newer.grant])
			}
			if !older.refused && states[older.grant] != protocol.StateDraining || states[v0] != protocol.StateDraining {
				t.Errorf("got %v, want grants %d and %d draining", states, older.grant, v0)
			}
			older.deploy.replaced(older.generation)
			older.step(t, 1)
			newer.step(t, 1)
			if !older.refused || newer.refused {
				t.Errorf("anew: the older deploy got a socket: %v, the newer one: %v", !older.refused, !newer.refused)
			}
			newer.deploy.wasToldNothing()
		})
	}
}

// TestDrainOfOneWhoIsGone: a drain has both of its steps, even if its client goes before the second.
func TestDrainOfOneWhoIsGone(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, oneway := range []bool{false, true} {
		b := start(t, server.Config{}, "web=127.0.0.1:0")
		d, generation := b.deploy(t, "web")
		worker, grant := b.hold(t, protocol.GetParameters{Names: []string{"web"}, Generation: generation})
		c := b.client(t)
		c.send(call{protocol.Call{Method: protocol.MethodDrain, Oneway: oneway}, all("web")})
		d.replaced(generation)
		c.close()
		worker.wantEvent(grant, protocol.EventDrain, true)
		if n := len(b.logs.lines(`"asked holders to leave"`)); n != 1 {
			t.Errorf("%d lines", n)
		}
	}
}
