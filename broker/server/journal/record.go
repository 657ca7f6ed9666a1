//go:build linux

package journal

import (
	"encoding/binary"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"golang.org/x/sys/unix"
)

// Ending is how a broker ended. The numbers are part of the layout.
type Ending uint64

const (
	Killed Ending = iota // or crashed: it did not get to say
	Stopped
	Upgrading
	KeeperLost
)

// FileID is a file, by its identity; the zero value is no file.
type FileID struct{ Dev, Ino uint64 }

// Control is the control socket.
type Control struct {
	File FileID
	Path string
}

// Listener is a listener.
type Listener struct {
	Token               uint32 // of its socket in the store
	Cookie              uint64
	File                FileID // of a Unix socket's path; zero if it is not the broker's
	Fence               Fence
	Configured, Adopted bool
	Blocking            bool // how the broker has left O_NONBLOCK
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

// apply makes c what it is with one more record. It returns false, and changes nothing, if
// the body makes no sense.
func (c *Contents) apply(k kind, flag uint64, body []byte) (at key, ok bool) {
	r := codec{b: body}
	at.kind = k
	num(&r, &at.id)
	control, l, g := Control{}, &Listener{Token: uint32(at.id)}, &Grant{ID: int64(at.id)}
	switch {
	case k == kindControl && flag == 0:
		if control.code(&r); !r.bad {
			c.Control = control
		}
	case k == kindListener && flag == removed:
		delete(c.Listeners, l.Token)
	case k == kindListener && uint64(l.Token) == at.id:
		if l.code(&r); !r.bad {
			c.Listeners[l.Token] = l
		}
	case k == kindGrant && flag == removed:
		delete(c.Grants, g.ID)
	case k == kindGrant && g.ID > 0:
		if g.code(&r); !r.bad {
			c.Grants[g.ID] = g
		}
	default:
		return at, false
	}
	return at, !r.bad
}

func (v *Control) code(c *codec) {
	num(c, &v.File.Dev, &v.File.Ino)
	c.text(&v.Path)
}

func (v *Listener) code(c *codec) {
	num(c, &v.Cookie, &v.File.Dev, &v.File.Ino)
	c.flags(&v.Configured, &v.Adopted, &v.Blocking)
	num(c, &v.Fence.All)
	c.limits(&v.Fence.Of)
	c.text(&v.Spec)
	c.bad = c.bad || v.Spec == ""
}

func (v *Grant) code(c *codec) {
	since := v.Since.UnixMicro()
	if num(c, &v.Generation, &since); !c.writes {
		v.Since = time.UnixMicro(since)
	}
	num(c, &v.Process.Inode)
	num(c, &v.Process.PID)
	num(c, &v.Process.Start)
	num(c, &v.Peer.PID)
	num(c, &v.Peer.UID, &v.Peer.GID)
	num(c, &v.Signal)
	c.flags(&v.More, &v.Draining, &v.Discovered)
	c.list(&v.Tokens)
}

// codec writes values behind b, or reads them from its front: one function for each kind
// of record does both. Reading what is not there sets bad.
type codec struct {
	b      []byte
	writes bool
	bad    bool
}

// num writes or reads numbers.
func num[T ~int | ~int64 | ~uint32 | ~uint64](c *codec, all ...*T) {
	for _, v := range all {
		if c.writes {
			c.b = binary.AppendUvarint(c.b, uint64(*v))
			continue
		}
		u, n := binary.Uvarint(c.b)
		if *v = T(u); n <= 0 || uint64(*v) != u {
			c.bad = true
		}
		c.b = c.b[max(n, 0):]
	}
}

// flags writes or reads all in one number, the first in its lowest bit.
func (c *codec) flags(all ...*bool) {
	bits := 0
	for i, flag := range all {
		if *flag {
			bits |= 1 << i
		}
	}
	num(c, &bits)
	for i, flag := range all {
		if !c.writes {
			*flag = bits>>i&1 != 0
		}
	}
}

// limits writes or reads numbers by user.
func (c *codec) limits(of *map[uint32]int64) {
	n := len(*of)
	num(c, &n)
	for uid, limit := range *of { // is empty if c reads
		num(c, &uid)
		num(c, &limit)
	}
	for ; n > 0 && !c.writes && !c.bad; n-- {
		var uid uint32
		var limit int64
		num(c, &uid)
		num(c, &limit)
		if *of == nil {
			*of = make(map[uint32]int64)
		}
		(*of)[uid] = limit
	}
}

// text writes or reads the rest of the record.
func (c *codec) text(s *string) {
	if c.writes {
		c.b = append(c.b, *s...)
	} else {
		*s = string(c.b)
	}
}

// list writes or reads numbers that are the rest of the record.
func (c *codec) list(all *[]uint32) {
	for i := range *all { // is empty if c reads
		num(c, &(*all)[i])
	}
	for !c.writes && !c.bad && len(c.b) > 0 {
		var v uint32
		num(c, &v)
		*all = append(*all, v)
	}
}
