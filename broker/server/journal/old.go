//go:build linux

package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The layout before this one has the same header. Its records follow, each of 64<<class
// bytes; of two for the same thing the one with the larger serial is in force. This file
// may go, with its test, once no broker that writes that layout is upgraded any more.
//
//	head: bits 0-7 kind, 8-15 class, 16-31 length of the body less 1, 32-63 CRC-32C of the body
const (
	oldMagic    = 0x32_6574_6174_7362 // "bstate2"
	oldUnit     = 64
	oldMaxClass = 11
	oldMaxSize  = 1 << 30
	oldFree     = 1 // kind of a record that is not in use
)

// replayOld is replay for the old layout.
func (j *Journal) replayOld(c *Contents) (err error) {
	serials := make(map[key]uint64)
	for at := headerSize; at+headSize <= len(j.data); {
		head := j.load(at)
		if head == 0 {
			return err
		}
		k, length := kind(head), int(head>>16&0xffff)+1
		size := oldUnit << min(head>>8&0xff, oldMaxClass+1)
		if size > oldUnit<<oldMaxClass || size > len(j.data)-at || k != oldFree && headSize+length > size {
			return fmt.Errorf("%w at %d", ErrDamaged, at)
		}
		if k != oldFree {
			body := j.data[at+headSize:][:length]
			if crc32.Checksum(body, castagnoli()) != uint32(head>>32) {
				return fmt.Errorf("%w at %d", ErrDamaged, at)
			}
			if !c.applyOld(k, body, serials) {
				err = fmt.Errorf("%w: the record at %d makes no sense", ErrDamaged, at)
			}
		}
		at += size
	}
	return fmt.Errorf("%w: it has no end", ErrDamaged)
}

// applyOld makes the record one of this layout, and applies that unless a record with a
// larger serial was applied.
func (c *Contents) applyOld(k kind, body []byte, serials map[key]uint64) bool {
	var serial uint64
	var now []byte
	switch {
	case k == kindControl && len(body) >= 16: // dev, ino, path
		now = append(appendUints(nil, 0, oldWord(body, 0), oldWord(body, 1)), body[16:]...)
	case k == kindListener: // serial, cookie, dev, ino, fence of all, token, flags; the rest is as it is now
		var v [7]uint64
		r := codec{b: body}
		for i := range v {
			num(&r, &v[i])
		}
		serial = v[0]
		now = append(appendUints(nil, v[5], v[1], v[2], v[3], v[6], v[4]), r.b...)
	case k == kindGrant && len(body) >= 80 && len(body)%4 == 0:
		serial, now = oldWord(body, 0), oldGrant(body)
	default:
		return false
	}
	r := codec{b: now}
	at := key{kind: k}
	num(&r, &at.id)
	if serial < serials[at] {
		return true
	}
	_, ok := c.apply(k, 0, now)
	if ok {
		serials[at] = serial
	}
	return ok
}

func oldWord(body []byte, i int) uint64 { return binary.NativeEndian.Uint64(body[8*i:]) }

// oldGrant returns the body of a grant in this layout. The old one is the words serial,
// id, generation, since, inode, pid, start, peer's pid and uid, gid and signal, flags, and
// then the tokens.
func oldGrant(body []byte) (now []byte) {
	for i := 1; i <= 6; i++ {
		now = binary.AppendUvarint(now, oldWord(body, i))
	}
	peer, more := oldWord(body, 7), oldWord(body, 8)
	now = appendUints(now, peer&0xffffffff, peer>>32, more&0xffffffff, more>>32, oldWord(body, 9))
	for body = body[80:]; len(body) > 0; body = body[4:] {
		now = binary.AppendUvarint(now, uint64(binary.NativeEndian.Uint32(body)))
	}
	return now
}

func appendUints(b []byte, values ...uint64) []byte {
	for _, v := range values {
		b = binary.AppendUvarint(b, v)
	}
	return b
}
