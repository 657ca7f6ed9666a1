package server_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// deploys makes the worker begin a deploy.
func (w *worker) deploys(generation int64, names ...string) int64 {
	w.t.Helper()
	w.ask(deploy(generation, names...))
	r, _ := w.answer()
	var reply protocol.DeployReply
	if r.Err == nil {
		r.Err = protocol.DecodeParameters(r.Parameters, &reply)
	}
	if r.Err != nil {
		w.t.Fatal(r.Err)
	}
	return reply.Generation
}

// generations returns those of the holders, by pid.
func (b *broker) generations(t testing.TB) map[int]int64 {
	t.Helper()
	is := make(map[int]int64)
	for _, h := range b.client(t).list().Holders {
		is[h.PID] = h.Generation
	}
	return is
}

// TestClaim: a client that claims the generation of another user's deploy gets one of its own, whether the
// deploy is known before or after. So it cannot end that deploy.
func TestClaim(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0,allow=any")
	starter := b.spawn(t)
	generation := starter.deploys(0, "web")
	claim := protocol.GetParameters{Names: []string{"web"}, Generation: generation}
	late := b.spawn(t, 12345, 12345)
	if err := late.call(getMore(claim)); err != nil {
		t.Fatal(err)
	}
	if got := b.generations(t)[late.pid()]; got <= generation {
		t.Errorf("another user's process is of generation %d", got)
	}
	const unknown = 7777
	claim.Generation = unknown
	early := b.spawn(t, 12345, 12345)
	if err := early.call(getMore(claim)); err != nil {
		t.Fatal(err)
	}
	if got := b.generations(t)[early.pid()]; got != unknown {
		t.Errorf("a process of a deploy that is not known is of generation %d", got)
	}
	resumed := b.spawn(t)
	resumed.deploys(unknown, "web")
	if got := b.generations(t)[early.pid()]; got == unknown {
		t.Errorf("another user's process goes on as one of generation %d", got)
	}
	if err := b.spawn(t, 12345, 12345).call(method(protocol.MethodDrain, all("web"))); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*worker{starter, resumed} {
		w.tell("next")
		_ = w.out.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if line, err := readLine(w.out); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("another user's drain told the deploy %q", line)
		}
	}
}

// TestReplacedWithoutWorkers: a deploy that was replaced while none of its workers held anything hears of
// it when the first one asks.
func TestReplacedWithoutWorkers(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0", "api=127.0.0.1:0")
	old, one := b.deploy(t)
	other, two := b.deploy(t)
	_, newest := b.deploy(t, "web")
	b.client(t).drain(older(newest, "web"))
	for _, p := range []protocol.GetParameters{
		{Names: []string{"web"}, Generation: one},
		{Names: []string{"later", "web"}, Generation: two, Wait: true},
	} {
		c := b.client(t)
		c.send(getMore(p))
		if err, ok := errors.AsType[*protocol.ReplacedError](c.refused()); !ok || err.Generation != p.Generation {
			t.Errorf("got %v", err)
		}
	}
	old.replaced(one)
	other.replaced(two)
}

// TestReplacedWhileAway: a deploy that comes back to the broker hears that its workers were asked to leave
// meanwhile.
func TestReplacedWhileAway(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	c, generation := b.deploy(t)
	c.close()
	b.hold(t, protocol.GetParameters{Names: []string{"web"}, Generation: generation})
	b.client(t).drain(all("web"))
	again := b.client(t)
	again.send(deploy(generation))
	if err, ok := errors.AsType[*protocol.ReplacedError](again.refused()); !ok || err.Generation != generation {
		t.Errorf("got %v", err)
	}
}

// TestLeavesBeforeItIsAsked: a drain does not wait for a holder that leaves between its two steps.
func TestLeavesBeforeItIsAsked(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	holder, _ := b.hold(t, protocol.GetParameters{Names: []string{"web"}})
	b.client(t).drain(all("web"))
	d, generation := b.deploy(t, "web")
	c := b.client(t)
	c.send(call{protocol.Call{Method: protocol.MethodDrain, More: true}, all("web")})
	d.replaced(generation) // and has some time to act on it
	holder.close()
	b.held(t, "web", 0, 0)
	for left := 1; left > 0; {
		r, _ := c.reply()
		var reply protocol.DrainReply
		if r.Err == nil {
			r.Err = protocol.DecodeParameters(r.Parameters, &reply)
		}
		if r.Err != nil || reply.Left == nil {
			t.Fatalf("got %s, %v", r.Parameters, r.Err)
		}
		left = *reply.Left
	}
}

// TestDrainGoesOn: holders that one broker has begun to drain are asked to leave by the next one.
func TestDrainGoesOn(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	b, _ := k.start("web=127.0.0.1:0")
	w := b.spawn(t)
	if err := w.call(getOnce(protocol.GetParameters{Names: []string{"web"}, DrainSignal: "TERM"})); err != nil {
		t.Fatal(err)
	}
	d, generation := b.deploy(t, "web")
	b.client(t).send(method(protocol.MethodDrain, all("web")))
	d.replaced(generation) // and has some time to act on it
	_ = b.stop()
	k.start("web=127.0.0.1:0")
	defer time.AfterFunc(patience, func() { _ = w.cmd.Process.Kill() }).Stop()
	if err := w.cmd.Wait(); err == nil || err.Error() != "signal: terminated" {
		t.Errorf("the process ended with %v", err)
	}
}

// TestDeployWithAnothersGeneration: a deploy that claims to go on with another user's generation gets a new
// one, and the other user's workers keep theirs.
func TestDeployWithAnothersGeneration(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	starter := b.spawn(t)
	generation := starter.deploys(0, "web")
	worker := b.spawn(t)
	if err := worker.call(getMore(protocol.GetParameters{Names: []string{"web"}, Generation: generation})); err != nil {
		t.Fatal(err)
	}
	usurp := func() {
		t.Helper()
		if got := b.spawn(t, alice, alice).deploys(generation); got <= generation {
			t.Errorf("another user's deploy is of generation %d", got)
		}
		if got := b.generations(t)[worker.pid()]; got != generation {
			t.Errorf("the worker is of generation %d", got)
		}
	}
	usurp()
	starter.kill()
	usurp()
	again := b.spawn(t)
	if got := again.deploys(generation, "web"); got != generation {
		t.Errorf("it goes on as generation %d", got)
	}
	usurp()
	other := b.spawn(t)
	if err := other.call(getMore(protocol.GetParameters{Names: []string{"web"}, Generation: generation})); err != nil {
		t.Fatal(err)
	}
	if got := b.generations(t)[other.pid()]; got != generation {
		t.Errorf("the next worker is of generation %d", got)
	}
}

// TestDrainByTheWorkersUser: a worker that became another user's before it asked has a generation of its
// own. A drain by that user does not end the deploy that started it.
func TestDrainByTheWorkersUser(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0,allow=any")
	d, generation := b.deploy(t, "web")
	get := getOnce(protocol.GetParameters{Names: []string{"web"}, Generation: generation})
	first := b.spawn(t, alice, alice)
	if err := first.call(get); err != nil {
		t.Fatal(err)
	}
	if got := b.generations(t)[first.pid()]; got <= generation {
		t.Errorf("the worker of another user is of generation %d", got)
	}
	if err := b.spawn(t, alice, alice).call(method(protocol.MethodDrain, all("web"))); err != nil {
		t.Fatal(err)
	}
	if err := b.spawn(t, alice, alice).call(get); err != nil {
		t.Errorf("the next worker: %v", err)
	}
	d.wasToldNothing()
}

// TestTooGreatGeneration: a generation that no earlier broker can have given counts as none.
func TestTooGreatGeneration(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	const great = 1<<52 + 1
	c := b.client(t)
	c.send(deploy(great, "web"))
	if reply, _ := c.deployed(); reply.Generation >= great {
		t.Errorf("got %+v", reply)
	}
	b.hold(t, protocol.GetParameters{Names: []string{"web"}, Generation: great})
	for pid, generation := range b.generations(t) {
		if generation >= great {
			t.Errorf("process %d is of generation %d", pid, generation)
		}
	}
}
