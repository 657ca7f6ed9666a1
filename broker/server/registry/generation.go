package registry

import (
	"maps"

	"github.com/fdbroker/fdbroker/broker/server/journal"
)

const (
	// MaxID is the greatest id that every language can tell apart.
	MaxID = 1<<53 - 1
	// maxForeignID bounds how far a client can advance ids by claiming a generation of an earlier
	// broker: as many are left for those that come then.
	maxForeignID = 1 << 52
	// maxFencedUsers limits how many users' fences a listener keeps: a user may have thousands of
	// uids, and a record of the journal has a limit.
	maxFencedUsers = 1024
)

// fence is the generation below which a listener's holders were drained: by a privileged user for all,
// by any other user for its own grants.
type fence struct {
	all int64
	of  map[uint32]int64 // by uid
}

// raise records a drain by c of the generations below limit.
func (f *fence) raise(c *Caller, limit int64) {
	if c.Privileged {
		f.all = max(f.all, limit)
		maps.DeleteFunc(f.of, func(_ uint32, limit int64) bool { return limit <= f.all })
		return
	}
	if f.of == nil {
		f.of = make(map[uint32]int64)
	}
	uid := c.Peer.UID
	f.of[uid] = max(f.of[uid], limit)
	if len(f.of) <= maxFencedUsers {
		return
	}
	oldest := uid
	for uid, limit := range f.of {
		if limit < f.of[oldest] {
			oldest = uid
		}
	}
	delete(f.of, oldest)
}

// excludes reports whether a drain has excluded a user's processes of that generation.
func (f *fence) excludes(uid uint32, generation int64) bool {
	return generation != 0 && (generation < f.all || generation < f.of[uid])
}

func (f *fence) saved() journal.Fence { return journal.Fence{All: f.all, Of: f.of} }

// age returns the generation that decides whether q is excluded: its deploy's, or the id of the grant
// that it will become. It is 0 for a request that has not waited.
func (q *Request) age() int64 {
	if q.Generation != 0 {
		return q.Generation
	}
	return q.id
}

// excludes reports whether a drain excludes q from l.
func (r *Registry) excludes(l *listener, q *Request) bool {
	return l.fence.excludes(q.Caller.Peer.UID, q.age())
}

// checkGeneration clears the generation that q claims if that is another user's deploy: generations are guessable.
func (r *Registry) checkGeneration(q *Request) {
	if q.Generation == 0 {
		return
	}
	for d := range r.deploys {
		if d.generation == q.Generation && !belongsTo(q.Caller.Peer, d.caller.Peer) {
			q.Generation = 0
			return
		}
	}
	if !r.skipPast(q.Generation) {
		q.Generation = 0
	}
}

// skipPast makes new ids larger than id, which a client has from an earlier broker. It reports false if
// id is too large.
func (r *Registry) skipPast(id int64) bool {
	switch {
	case id <= r.lastID:
		return true
	case id > maxForeignID:
		return false
	}
	r.lastID = id
	r.journal.SetLastID(id)
	return true
}

// newID returns the next id. Ids grow, so that they tell which came first.
func (r *Registry) newID() int64 {
	r.lastID++
	r.journal.SetLastID(r.lastID)
	return r.lastID
}
