//go:build linux

package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"os"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// The state is what the next broker has to know of this one: a file in memory, of
// which the store has a descriptor, and which is mapped here. To write it takes no
// system call, and it is right at any moment, since any moment may be the last.
//
//	0   magic, 8 bytes
//	8   the last id that was given out
//	16  how the broker ended, see the end* constants; 0: it did not get to say
//	24  the pid of the process in which another program was to go on; 0: none was
//	64  records, one behind the other, up to one whose head is 0
//
// A record has 64<<class bytes. Its head comes first, and is written by one atomic
// store; the body of one that is not free never changes. A change is a new record,
// and then the old one is free.
//
//	head: bits 0-7 kind, 8-15 class, 16-31 length of the body less 1, 32-63 CRC-32C of the body
type state struct {
	file    *scmrights.FD
	data    []byte
	end     int     // where the next new record goes
	free    [][]int // free records, by class
	serial  uint64  // of the last record; of two for the same thing the later one holds
	scratch []byte  // a body that is being made
	frozen  bool    // grants stay as they are: their holders go on
	failed  error   // why something could not be written, once
}

const (
	stateMagic  = 0x32_6574_6174_7362 // "bstate2", of this layout and no other
	stateHeader = 64
	stateUnit   = 64
	stateStart  = 1 << 20 // bytes of a new state, of which only those in use take memory
	stateMost   = 1 << 30

	atMagic   = 0
	atLastID  = 8
	atEnding  = 16
	atProcess = 24

	recordHead    = 8
	maxRecordBody = 1 << 16
)

// kind is what a record is about. The numbers stay as they are.
type kind uint8

const (
	kindNone     kind = 0
	kindFree     kind = 1
	kindControl  kind = 2
	kindListener kind = 3
	kindGrant    kind = 4
)

// StateLayout names the layout of the state. A broker with another one cannot go on with
// what was bound at run time, nor with the grants.
func StateLayout() string {
	return strings.TrimRight(string(binary.LittleEndian.AppendUint64(nil, stateMagic)), "\x00")
}

// ReadsLayout reports whether this broker can go on with a state of that layout.
func ReadsLayout(layout string) bool { return layout == StateLayout() }

// newState returns an empty state; the caller must close it.
func newState() (*state, error) {
	n, err := unix.MemfdCreate(socket.BrokerMark, unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		n, err = unix.MemfdCreate(socket.BrokerMark, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	s := &state{file: scmrights.NewFD(n), end: stateHeader}
	if err := s.resize(stateStart); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	s.store(atMagic, stateMagic)
	return s, nil
}

// openState takes fd, a state that another broker has left, and returns it, to go on in
// the same file; the caller must close it. Its records are those of scan.
func openState(fd *scmrights.FD) (_ *state, err error) {
	s := &state{file: fd, end: stateHeader}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	var st unix.Stat_t
	if cerr := fd.Control(func(n uintptr) { err = unix.Fstat(int(n), &st) }); cerr != nil || err != nil {
		return nil, errors.Join(cerr, os.NewSyscallError("fstat", err))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size < stateHeader+recordHead || st.Size > stateMost {
		return nil, errors.New("it is no state of a broker")
	}
	if err := s.mapAll(int(st.Size)); err != nil {
		return nil, err
	}
	if s.load(atMagic) != stateMagic {
		return nil, errors.New("it is no state of a broker, or of one with another layout")
	}
	return s, nil
}

// resize makes the file, and the mapping of it, that long.
func (s *state) resize(size int) error {
	var err error
	if cerr := s.file.Control(func(n uintptr) { err = unix.Ftruncate(int(n), int64(size)) }); cerr != nil || err != nil {
		return errors.Join(cerr, os.NewSyscallError("ftruncate", err))
	}
	return s.mapAll(size)
}

// mapAll replaces the mapping by one of size bytes, which the file has.
func (s *state) mapAll(size int) error {
	var data []byte
	var err error
	if cerr := s.file.Control(func(n uintptr) {
		data, err = unix.Mmap(int(n), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}); cerr != nil || err != nil {
		return errors.Join(cerr, os.NewSyscallError("mmap", err))
	}
	if s.data != nil {
		_ = unix.Munmap(s.data)
	}
	s.data = data
	return nil
}

// close ends the use of the state. The file lives on in the store.
func (s *state) close() {
	if s.data != nil {
		_ = unix.Munmap(s.data)
		s.data = nil // nothing is written any more
	}
	_ = s.file.Close()
}

func (s *state) word(at int) *uint64 { return (*uint64)(unsafe.Pointer(&s.data[at : at+8][0])) }

func (s *state) load(at int) uint64     { return atomic.LoadUint64(s.word(at)) }
func (s *state) store(at int, v uint64) { atomic.StoreUint64(s.word(at), v) }

// set writes a word of the header.
func (s *state) set(at int, v uint64) {
	if s.data != nil {
		s.store(at, v)
	}
}

// record is one that was found.
type record struct {
	kind kind
	at   int
	body []byte // in the mapping
}

// add writes a record and returns where it is, or 0 where there is no room for it.
func (s *state) add(k kind, body []byte) int {
	if s.data == nil || s.frozen && k == kindGrant || len(body) == 0 || len(body) > maxRecordBody {
		return 0
	}
	class := classOf(len(body))
	at := s.room(class)
	if at == 0 {
		return 0
	}
	copy(s.data[at+recordHead:], body)
	s.store(at, headOf(k, class, body))
	return at
}

// room returns where a record of class can go. What is there is free.
func (s *state) room(class int) int {
	for len(s.free) <= class {
		s.free = append(s.free, nil)
	}
	if list := s.free[class]; len(list) > 0 {
		s.free[class] = list[:len(list)-1]
		return list[len(list)-1]
	}
	size := stateUnit << class
	for s.end+size+recordHead > len(s.data) { // the head behind it is 0
		if err := s.grow(); err != nil {
			if s.failed == nil {
				s.failed = fmt.Errorf("the state has no room: %w", err)
			}
			return 0
		}
	}
	at := s.end
	// Before the body, so that a record which is never finished is a free one.
	s.store(at, uint64(kindFree)|uint64(class)<<8)
	s.end += size
	return at
}

func (s *state) grow() error {
	if len(s.data) >= stateMost {
		return fmt.Errorf("it has %d bytes, and may have no more", len(s.data))
	}
	return s.resize(min(2*len(s.data), stateMost))
}

// drop makes the record at at free.
func (s *state) drop(at int) {
	if s.data == nil || at == 0 {
		return
	}
	head := s.load(at)
	if s.frozen && kind(head) == kindGrant {
		return
	}
	class := int(head >> 8 & 0xff)
	s.store(at, uint64(kindFree)|uint64(class)<<8)
	for len(s.free) <= class {
		s.free = append(s.free, nil)
	}
	s.free[class] = append(s.free[class], at)
}

// classOf returns the class of the smallest record that has room for a body.
func classOf(length int) int {
	units := (recordHead + length + stateUnit - 1) / stateUnit
	return bits.Len(uint(units - 1))
}

func headOf(k kind, class int, body []byte) uint64 {
	return uint64(k) | uint64(class)<<8 | uint64(len(body)-1)<<16 | uint64(checksum(body))<<32
}

func checksum(body []byte) uint32 { return crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) }

// scan finds all records. What is not as a broker writes it ends the scan with an
// error, and the records so far.
func (s *state) scan() (records []record, err error) {
	for s.end+recordHead <= len(s.data) {
		head := s.load(s.end)
		if head == 0 {
			return records, nil
		}
		k, class := kind(head), int(head>>8&0xff)
		size := stateUnit << min(class, 20)
		if class > classOf(maxRecordBody) || s.end+size > len(s.data) {
			return records, fmt.Errorf("the record at %d is broken", s.end)
		}
		if k != kindFree {
			length := int(head>>16&0xffff) + 1
			if recordHead+length > size {
				return records, fmt.Errorf("the record at %d is broken", s.end)
			}
			body := s.data[s.end+recordHead:][:length]
			if headOf(k, class, body) != head {
				return records, fmt.Errorf("the record at %d is broken", s.end)
			}
			records = append(records, record{k, s.end, body})
		} else {
			for len(s.free) <= class {
				s.free = append(s.free, nil)
			}
			s.free[class] = append(s.free[class], s.end)
		}
		s.end += size
	}
	return records, fmt.Errorf("the state has no end")
}
