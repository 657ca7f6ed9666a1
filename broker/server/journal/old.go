//go:build linux

package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The layout before this one has the same header, and then records of 64<<class bytes; of
// two for the same thing the one with the larger serial is in force. This file may go,
// with its test, once no broker that writes that layout is upgraded any more.
//
//	head: bits 0-7 kind, 8-15 class, 16-31 length of the body less 1, 32-63 CRC-32C of the body
const (
	oldLayout   = "bstate2"
	oldMagic    = 0x32_6574_6174_7362
	oldMaxSize  = 1 << 30
	oldMaxClass = 11
	oldFree     = 1 // kind of a record that is not in use
)

// replayOld is replay for the old layout.
func (j *Journal) replayOld(c *Contents) error {
	serials := make(map[key]uint64)
	at, size := headerSize, 0
	for ; at+headSize <= len(j.data); at += size {
		head := j.load(at)
		if head == 0 {
			return nil
		}
		k, length := kind(head), int(head>>16&0xffff)+1
		size = 64 << min(head>>8&0xff, oldMaxClass)
		if size > len(j.data)-at || k != oldFree && headSize+length > size {
			break
		}
		if k == oldFree {
			continue
		}
		body := j.data[at+headSize:][:length]
		if crc32.Checksum(body, castagnoli()) != uint32(head>>32) || !c.applyOld(k, body, serials) {
			break
		}
	}
	return fmt.Errorf("%w at %d", ErrDamaged, at)
}

// applyOld makes the record one of this layout, and applies that unless a record with a
// larger serial was applied.
func (c *Contents) applyOld(k kind, body []byte, serials map[key]uint64) bool {
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(body[8*i:]) }
	var serial uint64
	var v []uint64 // the numbers in this layout
	switch {
	case k == kindControl && len(body) >= 16: // dev, ino, path
		v, body = []uint64{0, word(0), word(1)}, body[16:]
	case k == kindListener: // serial, cookie, dev, ino, fence of all, token, flags; the rest is as it is now
		var old [7]uint64
		r := codec{b: body}
		for i := range old {
			num(&r, &old[i])
		}
		serial, v, body = old[0], []uint64{old[5], old[1], old[2], old[3], old[6], old[4]}, r.b
	case k == kindGrant && len(body) >= 80: // serial, id, generation, since, inode, pid, start, pid and uid, gid and signal, flags, tokens
		serial = word(0)
		v = []uint64{word(1), word(2), word(3), word(4), word(5), word(6), word(7) & 0xffffffff, word(7) >> 32, word(8) & 0xffffffff, word(8) >> 32, word(9)}
		for body = body[80:]; len(body) >= 4; body = body[4:] {
			v = append(v, uint64(binary.NativeEndian.Uint32(body)))
		}
	default:
		return false
	}
	now := codec{writes: true}
	for i := range v {
		num(&now, &v[i])
	}
	at := key{k, v[0]}
	if serial < serials[at] {
		return true
	}
	serials[at] = serial
	_, ok := c.apply(k, 0, append(now.b, body...))
	return ok
}
