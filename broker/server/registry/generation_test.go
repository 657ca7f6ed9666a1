package registry

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// TestFenceOfManyUsers: if very many users drain a listener, the registry keeps the fences of the last
// ones, and the journal has room for them. A drain by root makes them superfluous.
func TestFenceOfManyUsers(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := newBooks(t)
	const users = 5000
	b.lastID = users
	b.bind("web=127.0.0.1:0,allow=any")
	for uid := int64(1); uid <= users; uid++ {
		if _, err := b.Drain(user(uint32(uid)), new(link), []string{"web"}, &uid); err != nil {
			t.Fatal(err)
		}
	}
	f := &b.listeners["web"].fence
	if len(f.of) != maxFencedUsers {
		t.Errorf("the fences of %d users are kept, want %d", len(f.of), maxFencedUsers)
	}
	for uid := uint32(users - maxFencedUsers + 1); uid <= users; uid++ {
		if !f.excludes(uid, int64(uid)-1) || f.excludes(uid, int64(uid)) {
			t.Fatalf("the fence of user %d is %d", uid, f.of[uid])
		}
	}
	if f.excludes(1, 0) || f.all != 0 {
		t.Errorf("users without privilege have raised the fence of all to %d", f.all)
	}
	token := b.listeners["web"].Token
	if saved := b.saved().Listeners[token]; saved == nil || !maps.Equal(saved.Fence.Of, f.of) {
		t.Errorf("the journal has %+v", saved)
	}
	b.Journal(func(j *journal.Journal) {
		if err := j.Err(); err != nil {
			t.Error(err)
		}
		l := &journal.Listener{Token: token + 1, Fence: f.saved(), Spec: strings.Repeat("x", 4096)}
		if j.PutListener(l); j.Err() != nil {
			t.Errorf("no room for a long spec with the fences of %d users: %v", len(f.of), j.Err())
		}
	})
	if saved := b.saved().Listeners[token+1]; saved == nil || len(saved.Spec) != 4096 || !maps.Equal(saved.Fence.Of, f.of) {
		t.Errorf("the journal has %+v", saved)
	}
	if _, err := b.Drain(user(root), new(link), []string{"web"}, nil); err != nil {
		t.Fatal(err)
	}
	if len(f.of) > 0 || f.all != users+1 {
		t.Errorf("root has drained below %d, and the fences of %d users are kept", f.all, len(f.of))
	}
	if saved := b.saved().Listeners[token]; saved == nil || len(saved.Fence.Of) > 0 || saved.Fence.All != users+1 {
		t.Errorf("the journal has %+v", saved)
	}
}

// TestFence: a user's drain excludes its own earlier generations, and root's everybody's.
func TestFence(t *testing.T) {
	var f fence
	check := func(when string, uid uint32, below int64) {
		t.Helper()
		for generation := range int64(12) {
			want := generation != 0 && generation < below
			if got := f.excludes(uid, generation); got != want {
				t.Errorf("%s: user %d, generation %d: excluded is %t, want %t", when, uid, generation, got, want)
			}
		}
	}
	check("at first", alice, 0)
	f.raise(user(alice), 5)
	check("drained by herself", alice, 5)
	check("drained by alice", bob, 0)
	check("drained by alice", root, 0)
	f.raise(user(alice), 3)
	check("drained again, below less", alice, 5)
	f.raise(user(root), 4)
	check("drained by root", alice, 5)
	check("drained by root", bob, 4)
	check("drained by root", root, 4)
	f.raise(user(root), 7)
	check("drained by root again", alice, 7)
	if len(f.of) > 0 {
		t.Errorf("fences of users are kept, below root's: %v", f.of)
	}
	f.raise(user(root), 2)
	check("drained by root, below less", bob, 7)
}

// TestGenerationsOfOthers: a generation belongs to the user that deploys it, and to root. If a user claims
// one that another user's deploy or grant has, it begins a generation of its own.
func TestGenerationsOfOthers(t *testing.T) {
	const generation = 7
	overflow := uint32(peer.OverflowID)
	for _, c := range []struct {
		name          string
		deploy, grant uint32 // of whom there is one; none: 1
		caller        uint32
		others        bool
	}{
		{"nobody has it", 1, 1, alice, false},
		{"her own deploy", alice, 1, alice, false},
		{"another user's deploy", bob, 1, alice, true},
		{"root's deploy", root, 1, alice, true},
		{"another user's deploy, for root", bob, 1, root, false},
		{"her own grant", 1, alice, alice, false},
		{"another user's grant", 1, bob, alice, true},
		{"root's grant", 1, root, alice, true},
		{"another user's grant, for root", 1, bob, root, false},
		{"another user's deploy, her own grant", bob, alice, alice, true},
		{"her own deploy, another user's grant", alice, bob, alice, true},
		{"the overflow user cannot be told from others", overflow, 1, overflow, true},
	} {
		r := New(Config{})
		if c.deploy != 1 {
			r.deploys[&Deploy{generation: generation, caller: user(c.deploy)}] = struct{}{}
		}
		r.deploys[&Deploy{generation: generation + 1, caller: user(bob)}] = struct{}{}
		if c.grant != 1 {
			r.grants[2] = &Grant{id: 2, generation: generation, peer: user(c.grant).Peer}
		}
		r.grants[3] = &Grant{id: 3, generation: generation + 1, peer: user(bob).Peer}
		if got := r.usedByOthers(user(c.caller), generation); got != c.others {
			t.Errorf("%s: used by others is %t", c.name, got)
		}
	}

	// Her own grant counts more than those of others: they have claimed her generation.
	r := New(Config{})
	for id, uid := range map[int64]uint32{1: bob, 2: alice, 3: root} {
		r.grants[id] = &Grant{id: id, generation: generation, peer: user(uid).Peer}
	}
	for range 20 { // the order of a map is any
		if r.usedByOthers(user(alice), generation) {
			t.Fatal("a generation of which she has a grant is that of others")
		}
	}
}

// TestRevokeClaims: once a deploy is known, grants of other users that had claimed its generation have
// their own, here and in the journal. Those of its user and of root stay.
func TestRevokeClaims(t *testing.T) {
	for _, c := range []struct {
		owner uint32
		stay  map[uint32]bool
	}{
		{alice, map[uint32]bool{alice: true, root: true}},
		{bob, map[uint32]bool{bob: true, root: true}},
		{root, map[uint32]bool{root: true}},
	} {
		fdtest.CheckLeaks(t)
		b := newBooks(t)
		b.bind("web=127.0.0.1:0,allow=any")
		b.lastID = 100
		const generation = 50
		grants := make(map[uint32]*Grant)
		for _, uid := range []uint32{root, alice, bob} {
			grants[uid] = b.get(user(uid), generation, "web")
		}
		other := b.get(user(bob), generation-1, "web")
		b.do(func() { b.revokeClaims(&Deploy{generation: generation, caller: user(c.owner)}) })
		saved := b.saved().Grants
		for uid, g := range grants {
			want := g.id
			if c.stay[uid] {
				want = generation
			}
			if g.generation != want || saved[g.id] == nil || saved[g.id].Generation != want {
				t.Errorf("deploy of %d: the grant of %d has generation %d and %+v in the journal, want %d", c.owner, uid, g.generation, saved[g.id], want)
			}
		}
		if other.generation != generation-1 {
			t.Errorf("a grant of another generation has %d", other.generation)
		}
	}
}

// TestClaimedGenerations checks the same with the methods that calls use.
func TestClaimedGenerations(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := newBooks(t)
	b.bind("web=127.0.0.1:0,allow=any")
	b.lastID = 100
	enroll := func(uid uint32, generation int64) *Deploy {
		t.Helper()
		d, err := b.Enroll(user(uid), new(link), []string{"web"}, generation, false)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	early := b.get(user(bob), 40, "web") // claims it before the deploy is known
	hers := b.get(user(alice), 40, "web")
	d := enroll(alice, 40)
	if d.ID() != 40 || hers.generation != 40 || early.generation != early.id {
		t.Errorf("deploy %d, its grant %d, another user's %d of grant %d", d.ID(), hers.generation, early.generation, early.id)
	}
	if g := b.get(user(bob), 40, "web"); g.generation != g.id {
		t.Errorf("another user has claimed generation %d", g.generation)
	}
	if g := b.get(user(root), 40, "web"); g.generation != 40 {
		t.Errorf("root's grant has generation %d", g.generation)
	}
	if d := enroll(bob, 40); d.ID() == 40 || d.ID() <= 100 {
		t.Errorf("another user's deploy has generation %d", d.ID())
	}
	// A drain by another user neither replaces the deploy nor excludes its generation; one of its own does.
	if _, err := b.Drain(user(bob), new(link), []string{"web"}, nil); err != nil {
		t.Fatal(err)
	}
	if b.Replaced(d) {
		t.Error("another user's drain has replaced the deploy")
	}
	if _, err := b.Drain(user(alice), new(link), []string{"web"}, nil); err != nil {
		t.Fatal(err)
	}
	if !b.Replaced(d) {
		t.Error("a drain of the same user has not replaced the deploy")
	}
	if _, err := b.Enroll(user(alice), new(link), []string{"web"}, 40, false); !errors.Is(err, protocol.ErrReplaced) {
		t.Errorf("the deploy comes again after the drain: %v", err)
	}
	if d := enroll(root, 40); d.ID() != 40 { // root may say that it is anybody's
		t.Errorf("root's deploy has generation %d", d.ID())
	}
}
