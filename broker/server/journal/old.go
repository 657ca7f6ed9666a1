package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
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

func (j *Journal) replayOld(c *Contents) error {
	serials := make(map[key]uint64)
	at := headerSize
	for at+headSize <= len(j.data) {
		head := j.load(at)
		length, size := int(head>>16&0xffff)+1, 64<<min(head>>8&0xff, oldMaxClass)
		if head == 0 {
			return nil
		}
		fits := headSize+length <= size && size <= len(j.data)-at
		if kind(head) != oldFree && !(fits && c.applyOld(head, j.data[at+headSize:][:length], serials)) {
			break
		}
		at += size
	}
	return fmt.Errorf("%w at %d", ErrDamaged, at)
}

// applyOld applies a record of the old layout, unless one with a larger serial was applied.
func (c *Contents) applyOld(head uint64, body []byte, serials map[key]uint64) bool {
	if crc32.Checksum(body, castagnoli()) != uint32(head>>32) {
		return false
	}
	k := kind(head)
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(body[8*i:]) }
	low, high := func(i int) uint64 { return word(i) & math.MaxUint32 }, func(i int) uint64 { return word(i) >> 32 }
	var serial uint64
	var v []uint64 // the values in this layout
	text := ""
	switch {
	case k == kindControl && len(body) >= 16: // dev, ino, path
		v, text = []uint64{0, word(0), word(1)}, string(body[16:])
	case k == kindListener: // serial, cookie, dev, ino, fence of all, token, flags, number of fences, fences, spec
		old := make([]uint64, 8)
		for i, n := 0, 0; i < len(old); i++ {
			if old[i], n = binary.Uvarint(body); n <= 0 {
				return false
			}
			if body = body[n:]; i == 7 {
				old = append(old, make([]uint64, 2*min(old[7], uint64(len(body))))...)
			}
		}
		serial, text = old[0], string(body)
		v = append([]uint64{old[5], old[1], old[2], old[3], old[6], old[4]}, old[8:]...)
	case k == kindGrant && len(body) >= 80:
		// serial, id, generation, since, inode, pid, start, pid and uid, gid and signal, flags; tokens
		serial = word(0)
		v = []uint64{word(1), word(2), word(3), word(4), word(5), word(6), low(7), high(7), low(8), high(8), word(9)}
		for ; len(body) >= 84; body = body[4:] {
			v = append(v, uint64(binary.NativeEndian.Uint32(body[80:])))
		}
	}
	if len(v) == 0 || serial < serials[key{k, v[0]}] {
		return len(v) > 0
	}
	serials[key{k, v[0]}] = serial
	return c.apply(k, v, text)
}
