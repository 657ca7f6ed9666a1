//go:build linux

// Package journal keeps what the next broker has to know of this one: the control socket,
// the listeners, the grants, and how this broker ended. It is a memfd that the store has a
// descriptor of too, so it outlives the broker.
//
// An update takes no system call and is atomic: the journal is right at any instant,
// whenever the broker is killed. The package writes to its memfd and nothing else. It must
// never judge what it records, look at processes or sockets, or fail because of what an
// earlier broker left.
package journal

import (
	"errors"
	"os"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Journal is a journal that this broker writes. It is not safe for concurrent use.
type Journal struct {
	file   *scmrights.FD
	data   []byte      // the mapping of the file; nil once closed
	end    int         // of the log: the place of the next record
	at     map[key]int // the places of the records in force
	live   int         // bytes of those records
	codec  codec
	sealed bool
	err    error
}

// Errors of Open.
var (
	ErrNotJournal = errors.New("it is no journal of a broker, or has an unknown layout")
	ErrDamaged    = errors.New("the journal is damaged")
)

// Layout names the layout of a new journal.
func Layout() string { return "bstate3" }

// Reads reports whether Open can read a journal with that layout.
func Reads(layout string) bool { return layout == Layout() || layout == oldLayout }

// New returns an empty journal; the caller must close it.
func New() (*Journal, error) {
	n, err := unix.MemfdCreate(socket.BrokerMark, unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		n, err = unix.MemfdCreate(socket.BrokerMark, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	j := &Journal{file: scmrights.NewFD(n), end: headerSize, at: make(map[key]int)}
	if err = os.NewSyscallError("ftruncate", unix.Ftruncate(n, fileSize)); err == nil {
		err = j.mapFile()
	}
	if err != nil {
		j.Close()
		return nil, err
	}
	j.store(atStart, headerSize)
	j.store(atMagic, magic)
	return j, nil
}

// Open takes fd, the journal of an earlier broker, to go on in the same file; the caller
// must close the Journal. If that is nil the caller has to begin a new one: with an error
// because fd is damaged or no journal, without because its layout is an older one. The
// Contents are what could be read in any case.
func Open(fd *scmrights.FD) (*Journal, Contents, error) {
	j := &Journal{file: fd, at: make(map[key]int)}
	c := Contents{Listeners: make(map[uint32]*Listener), Grants: make(map[int64]*Grant)}
	goesOn, err := j.read(&c)
	if !goesOn {
		j.Close()
		j = nil
	}
	return j, c, err
}

// read reads the file, and reports whether it can be gone on with.
func (j *Journal) read(c *Contents) (goesOn bool, err error) {
	if err := j.mapFile(); err != nil {
		return false, err
	}
	switch j.load(atMagic) {
	case magic:
		err = j.replay(c)
		goesOn = err == nil
	case oldMagic:
		err = j.replayOld(c)
	default:
		return false, ErrNotJournal
	}
	c.LastID, c.Ending, c.Process = int64(j.load(atLastID)), Ending(j.load(atEnding)), int(j.load(atProcess))
	for id := range c.Grants {
		c.LastID = max(c.LastID, id)
	}
	if c.LastID = max(0, c.LastID); goesOn {
		j.trim()
	}
	return goesOn, err
}

// PutControl records the control socket.
func (j *Journal) PutControl(c Control) { j.put(key{kindControl, 0}, c.code) }

// PutListener records l, which it borrows, in place of an earlier one with its Token.
func (j *Journal) PutListener(l *Listener) { j.put(key{kindListener, uint64(l.Token)}, l.code) }

// PutGrant records g, which it borrows, in place of an earlier one with its ID.
func (j *Journal) PutGrant(g *Grant) { j.put(key{kindGrant, uint64(g.ID)}, g.code) }

// RemoveListener removes the listener with that token, if there is one.
func (j *Journal) RemoveListener(token uint32) { j.put(key{kindListener, uint64(token)}, nil) }

// RemoveGrant removes the grant with that id, if there is one.
func (j *Journal) RemoveGrant(id int64) { j.put(key{kindGrant, uint64(id)}, nil) }

// SetLastID records the last id that was given out.
func (j *Journal) SetLastID(id int64) { j.set(atLastID, uint64(id)) }

// SetEnding records how this broker ends, and the pid of the process in which another
// program is to go on, or 0.
func (j *Journal) SetEnding(e Ending, pid int) {
	j.set(atProcess, uint64(pid)) // first, because a new Ending counts at once
	j.set(atEnding, uint64(e))
}

// Seal makes the grants what the next broker is to find: from now on PutGrant and
// RemoveGrant change nothing, because the holders go on.
func (j *Journal) Seal() { j.sealed = true }

// Sealed reports whether Seal was called.
func (j *Journal) Sealed() bool { return j.sealed }

// File returns the journal's descriptor, which the caller borrows.
func (j *Journal) File() *scmrights.FD { return j.file }

// Err returns why a record could not be written, the first time.
func (j *Journal) Err() error { return j.err }

// Close ends the use of the journal, which the store still has. Afterwards nothing is
// written. Closing again does nothing.
func (j *Journal) Close() {
	if j.data != nil {
		_ = unix.Munmap(j.data)
		j.data = nil
	}
	_ = j.file.Close()
}
