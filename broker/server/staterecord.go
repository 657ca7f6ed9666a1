//go:build linux

package server

import (
	"encoding/binary"
	"errors"
	"slices"
)

// What the records say, each in the order of its fields, in the machine's own byte
// order: nobody reads them elsewhere.

var errRecord = errors.New("a record of the state makes no sense")

// savedControl is the control socket.
type savedControl struct {
	file fileID
	path string
}

// savedListener is a listener.
type savedListener struct {
	serial uint64
	cookie uint64
	file   fileID // of a Unix socket's path; none where it is not the broker's
	sent   sent   // away
	token  uint32 // its socket's name in the store
	flags  uint32
	spec   string
}

const (
	savedConfigured = 1 << iota
	savedAdopted
	savedBlocking // how the broker has left O_NONBLOCK
)

// savedGrant is a grant.
type savedGrant struct {
	serial     uint64
	id         int64
	generation int64
	since      int64 // microseconds
	process    processID
	peer       peer
	signal     uint32 // of a drain; 0: none
	flags      uint32
	tokens     []uint32 // of its listeners
}

const (
	savedMore = 1 << iota
	savedDraining
	savedFound
)

func (c savedControl) append(b []byte) []byte {
	b = appendWords(b, c.file.dev, c.file.ino)
	return append(b, c.path...)
}

// append writes small numbers in few bytes: most listeners have no others, and fit with
// their spec into the smallest record.
func (l savedListener) append(b []byte) []byte {
	for _, v := range [...]uint64{
		l.serial, l.cookie, l.file.dev, l.file.ino, uint64(l.sent.all),
		uint64(l.token), uint64(l.flags), uint64(len(l.sent.of)),
	} {
		b = binary.AppendUvarint(b, v)
	}
	for uid, limit := range l.sent.of {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(uid)), uint64(limit))
	}
	return append(b, l.spec...)
}

func (g *savedGrant) append(b []byte) []byte {
	b = appendWords(b, g.serial, uint64(g.id), uint64(g.generation), uint64(g.since),
		g.process.inode, uint64(g.process.pid), g.process.start,
		pair(uint32(g.peer.pid), g.peer.uid), pair(g.peer.gid, g.signal), uint64(g.flags))
	for _, t := range g.tokens {
		b = binary.NativeEndian.AppendUint32(b, t)
	}
	return b
}

func appendWords(b []byte, words ...uint64) []byte {
	for _, w := range words {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return b
}

func pair(low, high uint32) uint64 { return uint64(low) | uint64(high)<<32 }

func parseControl(b []byte) (c savedControl, err error) {
	w, rest, err := takeWords(b, 2)
	if err != nil {
		return c, err
	}
	return savedControl{fileID{w[0], w[1]}, string(rest)}, nil
}

func parseListener(b []byte) (l savedListener, err error) {
	w, rest, err := takeUvarints(b, 8)
	if err != nil || w[7] > uint64(len(rest)/2) {
		return l, errRecord
	}
	l = savedListener{
		serial: w[0], cookie: w[1], file: fileID{w[2], w[3]}, sent: sent{all: int64(w[4])},
		token: uint32(w[5]), flags: uint32(w[6]),
	}
	if users := int(w[7]); users > 0 {
		l.sent.of = make(map[uint32]int64, users)
		if w, rest, err = takeUvarints(rest, 2*users); err != nil {
			return l, err
		}
		for ; len(w) > 0; w = w[2:] {
			l.sent.of[uint32(w[0])] = int64(w[1])
		}
	}
	if l.spec = string(rest); l.spec == "" {
		return l, errRecord
	}
	return l, nil
}

func parseGrant(b []byte) (g savedGrant, err error) {
	w, rest, err := takeWords(b, 10)
	if err != nil || len(rest)%4 != 0 || w[1] == 0 || int64(w[1]) < 0 {
		return g, errRecord
	}
	g = savedGrant{
		serial: w[0], id: int64(w[1]), generation: int64(w[2]), since: int64(w[3]),
		process: processID{inode: w[4], pid: int(w[5]), start: w[6]},
		peer:    peer{int(uint32(w[7])), uint32(w[7] >> 32), uint32(w[8])},
		signal:  uint32(w[8] >> 32), flags: uint32(w[9]),
	}
	for ; len(rest) > 0; rest = rest[4:] {
		if t := binary.NativeEndian.Uint32(rest); !slices.Contains(g.tokens, t) {
			g.tokens = append(g.tokens, t)
		}
	}
	return g, nil
}

func takeWords(b []byte, n int) (words []uint64, rest []byte, err error) {
	if len(b) < 8*n {
		return nil, nil, errRecord
	}
	words = make([]uint64, n)
	for i := range words {
		words[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
	return words, b[8*n:], nil
}

// takeUvarints is takeWords of what was written in few bytes.
func takeUvarints(b []byte, n int) (words []uint64, rest []byte, err error) {
	words = make([]uint64, n)
	for i := range words {
		v, size := binary.Uvarint(b)
		if size <= 0 {
			return nil, nil, errRecord
		}
		words[i], b = v, b[size:]
	}
	return words, b, nil
}

// saved is all that a state says, of each thing what was written last.
type saved struct {
	control    savedControl
	controlAt  int
	listeners  map[uint32]*savedListener // by token
	grants     map[int64]*savedGrant
	at         map[any]int // where the record of each of them is
	superseded []int       // records that no longer hold
	lastID     int64
	ending     uint64
	process    uint64
}

// read makes sense of records. Those that make none are left out, and reported.
func (s *state) read(records []record) (v saved, err error) {
	v = saved{
		listeners: make(map[uint32]*savedListener), grants: make(map[int64]*savedGrant), at: make(map[any]int),
		lastID: int64(s.load(atLastID)), ending: s.load(atEnding), process: s.load(atProcess),
	}
	for _, r := range records {
		var rerr error
		switch r.kind {
		case kindControl:
			v.control, rerr = parseControl(r.body)
			v.controlAt = r.at
		case kindListener:
			var l savedListener
			if l, rerr = parseListener(r.body); rerr == nil {
				v.listener(&l, r.at)
				s.serial = max(s.serial, l.serial)
			}
		case kindGrant:
			var g savedGrant
			if g, rerr = parseGrant(r.body); rerr == nil {
				v.grant(&g, r.at)
				s.serial = max(s.serial, g.serial)
			}
		default:
			rerr = errRecord
		}
		if rerr != nil {
			err = rerr
			v.superseded = append(v.superseded, r.at)
		}
	}
	v.lastID = max(v.lastID, 0)
	for id := range v.grants {
		v.lastID = max(v.lastID, id)
	}
	return v, err
}

func (v *saved) listener(l *savedListener, at int) {
	if other := v.listeners[l.token]; other != nil {
		if other.serial > l.serial {
			v.superseded = append(v.superseded, at)
			return
		}
		v.superseded = append(v.superseded, v.at[l.token])
	}
	v.listeners[l.token], v.at[l.token] = l, at
}

func (v *saved) grant(g *savedGrant, at int) {
	if other := v.grants[g.id]; other != nil {
		if other.serial > g.serial {
			v.superseded = append(v.superseded, at)
			return
		}
		v.superseded = append(v.superseded, v.at[g.id])
	}
	v.grants[g.id], v.at[g.id] = g, at
}
