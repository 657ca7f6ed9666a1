package journal

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"golang.org/x/sys/unix"
)

// Ending is how a broker ended. The numbers are part of the layout.
type Ending uint64

const (
	Killed Ending = iota // or crashed: it did not get to say
	Stopped
	Upgrading
	KeeperLost
	Starting // it was the first one, and was never ready
)

// Control is the control socket.
type Control struct {
	File sockfile.FileID
	Path string
}

// Listener is a listener.
type Listener struct {
	Token               uint32 // of its socket in the store
	Cookie              uint64
	File                sockfile.FileID // of a Unix socket's path; zero if it is not the broker's
	Fence               Fence
	Configured, Adopted bool
	Blocking            bool // how the broker has left O_NONBLOCK
	Unstored            bool // the store does not have its socket
	Unseen              int  // processes that the broker could not follow, and that may use it
	Spec                string
}

// Fence is the generation below which a listener's holders were drained: All by a
// privileged user for all holders, Of by other users for their own.
type Fence struct {
	All int64
	Of  map[uint32]int64 // nil if there are none
}

// Grant is a grant.
type Grant struct {
	ID, Generation             int64
	Since                      time.Time // in microseconds
	Process                    peer.ID   // zero if the grant lasts as long as its connection
	Peer                       peer.Credentials
	Signal                     unix.Signal // of a drain; 0: none
	More, Draining, Discovered bool
	Tokens                     []uint32 // of its listeners
}

// Contents is all that a journal says.
type Contents struct {
	Control   Control              // zero if there is none
	Listeners map[uint32]*Listener // by Token
	Grants    map[int64]*Grant     // by ID
	LastID    int64                // not less than any grant's
	Ending    Ending
	Process   int // see [Journal.SetEnding]
}

// apply applies a record to c. It returns false, and changes nothing, if the record makes no sense.
func (c *Contents) apply(k kind, v []uint64, text string) bool {
	switch n := len(v); {
	case k == kindControl && n == 3 && v[0] == 0:
		c.Control = Control{sockfile.FileID{Dev: v[1], Ino: v[2]}, text}
	case k == kindListener && n == 1:
		delete(c.Listeners, uint32(v[0]))
	case k == kindListener && n >= 6 && v[0] <= math.MaxUint32 && text != "":
		c.Listeners[uint32(v[0])] = listenerOf(v, text)
	case k == kindGrant && n == 1:
		delete(c.Grants, int64(v[0]))
	case k == kindGrant && n >= 11 && int64(v[0]) > 0:
		c.Grants[int64(v[0])] = grantOf(v)
	default:
		return false
	}
	return true
}

func (l *Listener) appendTo(v []uint64) []uint64 {
	flags := flag(0, l.Configured) | flag(1, l.Adopted) | flag(2, l.Blocking) | flag(3, l.Unstored) | uint64(l.Unseen)<<unseenShift
	v = append(v, uint64(l.Token), l.Cookie, l.File.Dev, l.File.Ino, flags, uint64(l.Fence.All))
	for uid, below := range l.Fence.Of {
		v = append(v, uint64(uid), uint64(below))
	}
	return v
}

// unseenShift is where the flags of a listener have Unseen: versions before do not look at it.
const unseenShift = 32

func listenerOf(v []uint64, spec string) *Listener {
	l := &Listener{
		Token: uint32(v[0]), Cookie: v[1], File: sockfile.FileID{Dev: v[2], Ino: v[3]}, Fence: Fence{All: int64(v[5])},
		Configured: has(v[4], 0), Adopted: has(v[4], 1), Blocking: has(v[4], 2), Unstored: has(v[4], 3), Unseen: int(v[4] >> unseenShift & math.MaxInt32), Spec: spec,
	}
	for of := v[6:]; len(of) >= 2; of = of[2:] {
		if l.Fence.Of == nil {
			l.Fence.Of = make(map[uint32]int64)
		}
		l.Fence.Of[uint32(of[0])] = int64(of[1])
	}
	return l
}

func (g *Grant) appendTo(v []uint64) []uint64 {
	flags := flag(0, g.More) | flag(1, g.Draining) | flag(2, g.Discovered)
	v = append(v, uint64(g.ID), uint64(g.Generation), uint64(g.Since.UnixMicro()),
		g.Process.Inode, uint64(g.Process.PID), g.Process.Start,
		uint64(g.Peer.PID), uint64(g.Peer.UID), uint64(g.Peer.GID), uint64(g.Signal), flags)
	for _, t := range g.Tokens {
		v = append(v, uint64(t))
	}
	return v
}

func grantOf(v []uint64) *Grant {
	g := &Grant{
		ID: int64(v[0]), Generation: int64(v[1]), Since: time.UnixMicro(int64(v[2])),
		Process: peer.ID{Inode: v[3], PID: int(v[4]), Start: v[5]},
		Peer:    peer.Credentials{PID: int(v[6]), UID: uint32(v[7]), GID: uint32(v[8])}, Signal: unix.Signal(v[9]),
		More: has(v[10], 0), Draining: has(v[10], 1), Discovered: has(v[10], 2),
	}
	for _, t := range v[11:] {
		g.Tokens = append(g.Tokens, uint32(t))
	}
	return g
}

func flag(bit int, set bool) uint64 {
	if set {
		return 1 << bit
	}
	return 0
}

func has(flags uint64, bit int) bool { return flags>>bit&1 != 0 }

func appendBody(b []byte, values []uint64, text string) []byte {
	b = binary.AppendUvarint(b, uint64(len(values)))
	for _, v := range values {
		b = binary.AppendUvarint(b, v)
	}
	return append(b, text...)
}

// parseBody is the reverse of appendBody. It returns false if b does not have all values.
func parseBody(b []byte) (values []uint64, text string, ok bool) {
	left, n := binary.Uvarint(b)
	for ; n > 0 && left > 0; left-- {
		var v uint64
		b = b[n:]
		v, n = binary.Uvarint(b)
		values = append(values, v)
	}
	if n <= 0 {
		return nil, "", false
	}
	return values, string(b[n:]), true
}
