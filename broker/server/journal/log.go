package journal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The file is sparse: only the pages that are in use take memory. It has a header of words, in the machine's own byte
// order, and a log: records one behind the other, up to a head that is 0. A record replaces an earlier one of the same
// kind and id. Its head is stored last, by one atomic store; until then the log ends before it.
//
//	record: head; body: a number of values, the values, of which the first is the id, and a text; padding to whole words
//	head: bits 0-7 kind, 8-31 length of the body, 32-63 CRC-32C of the body, which starts from bits 0-31
//
// A record that has the id alone removes the earlier one.
const (
	magic = 0x33_6574_6174_7362 // "bstate3", of this layout and no other

	atMagic    = 0
	atLastID   = 8
	atEnding   = 16
	atProcess  = 24
	atStart    = 32 // of the log
	headerSize = 64

	headSize = 8
	maxBody  = 1<<24 - 1

	fileSize  = 1 << 29
	leastSize = 1 << 20
	minDead   = 1 << 18 // fewer bytes of replaced records are not worth compacting
)

// kind is the subject of a record. The numbers are part of the layout.
type kind uint8

const (
	kindControl  kind = 2
	kindListener kind = 3
	kindGrant    kind = 4
)

// key identifies the subject of a record, which replaces the earlier one with that key.
type key struct {
	kind kind
	id   uint64
}

func headOf(k kind, body []byte) uint64 {
	low := uint64(k) | uint64(len(body))<<8
	return low | uint64(crc32.Update(uint32(low), castagnoli(), body))<<32
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // which is made once

// sizeOf returns the bytes of the record with that head.
func sizeOf(head uint64) int { return headSize + (int(head>>8&maxBody)+7)&^7 }

// put appends a record. If there is no room for it, the one in force stays.
func (j *Journal) put(k kind, values []uint64, text string) {
	if j.values = values; j.data == nil || j.sealed && k == kindGrant {
		return
	}
	j.body = appendBody(j.body[:0], values, text)
	head := headOf(k, j.body)
	if !j.fits(sizeOf(head)) {
		j.compact()
	}
	if len(j.body) > maxBody || !j.fits(sizeOf(head)) {
		if j.err == nil {
			j.err = fmt.Errorf("the journal has no room for %d bytes", len(j.body))
		}
		return
	}
	copy(j.data[j.end+headSize:], j.body)
	j.store(j.end+sizeOf(head), 0) // the end of the log, once it has this record
	j.store(j.end, head)
	j.index(k, values, head)
	if dead := j.end - int(j.load(atStart)) - j.live; dead >= minDead && dead > j.live {
		j.compact()
	}
}

// fits reports whether a record of size bytes has room at the end of the log.
func (j *Journal) fits(size int) bool { return j.end+size+headSize <= len(j.data) }

// index makes the record at the end of the log the one in force for its key.
func (j *Journal) index(k kind, values []uint64, head uint64) {
	at := key{k, values[0]}
	if old, ok := j.at[at]; ok {
		j.live -= sizeOf(j.load(old))
		delete(j.at, at)
	}
	if len(values) > 1 {
		j.live += sizeOf(head)
		j.at[at] = j.end
	}
	j.end += sizeOf(head)
}

// compact makes a new log of the records in force: below the old one if they fit there, otherwise above. The store of
// its start puts it in force. Without room for it the old log goes on.
func (j *Journal) compact() {
	start := headerSize
	if start+j.live+headSize > int(j.load(atStart)) {
		start = j.end + headSize
	}
	if start+j.live+headSize > len(j.data) {
		return
	}
	end := start
	for k, at := range j.at {
		j.at[k] = end
		end += copy(j.data[end:], j.data[at:at+sizeOf(j.load(at))])
	}
	j.store(end, 0)
	j.store(atStart, uint64(start))
	j.end = end
	j.trim()
}

// trim returns the memory outside the log.
func (j *Journal) trim() {
	start, end := int64(j.load(atStart)), int64(j.end+headSize)
	_ = j.file.Control(func(n uintptr) {
		const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		_ = unix.Fallocate(int(n), mode, headerSize, start-headerSize) // EINVAL if that is nothing
		_ = unix.Fallocate(int(n), mode, end, int64(len(j.data))-end)
	})
}

// replay reads the log, up to a record that no broker has written.
func (j *Journal) replay(c *Contents) error {
	j.end = int(min(j.load(atStart), fileSize))
	for j.end >= headerSize && j.end%headSize == 0 && j.end+headSize <= len(j.data) {
		head := j.load(j.end)
		if head == 0 {
			j.trim()
			return nil
		}
		if sizeOf(head) > len(j.data)-j.end {
			break
		}
		k, body := kind(head), j.data[j.end+headSize:][:head>>8&maxBody]
		values, text, ok := parseBody(body)
		if headOf(k, body) != head || !ok || !c.apply(k, values, text) {
			break
		}
		j.index(k, values, head)
	}
	return fmt.Errorf("%w at %d", ErrDamaged, j.end)
}

// mapFile maps the file, if it can be a journal.
func (j *Journal) mapFile() (err error) {
	cerr := j.file.Control(func(n uintptr) {
		var st unix.Stat_t
		if err = os.NewSyscallError("fstat", unix.Fstat(int(n), &st)); err != nil {
			return
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size < headerSize+headSize || st.Size > oldMaxSize {
			err = ErrNotJournal
			return
		}
		j.data, err = unix.Mmap(int(n), 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		err = os.NewSyscallError("mmap", err)
	})
	return errors.Join(cerr, err)
}

// word returns the word at at, which is a multiple of 8.
func (j *Journal) word(at int) *uint64 { return (*uint64)(unsafe.Pointer(&j.data[at : at+8][0])) }

func (j *Journal) load(at int) uint64     { return atomic.LoadUint64(j.word(at)) }
func (j *Journal) store(at int, v uint64) { atomic.StoreUint64(j.word(at), v) }

func (j *Journal) set(at int, v uint64) {
	if j.data != nil {
		j.store(at, v)
	}
}
