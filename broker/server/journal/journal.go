// Package journal keeps the knowledge that the next broker needs: the control socket, the listeners, the grants, and
// how this broker ended. It is a memfd that the store has a descriptor of too, so it outlives the broker.
//
// An update takes no system call and is atomic: the journal is right at any instant, whenever the broker is killed. The
// package writes to its memfd and nothing else. It must never judge its records, look at processes or sockets, or fail
// because of a damaged journal of an earlier broker.
package journal

import (
	"errors"
	"os"

	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Journal is a journal that this broker writes. It is not safe for concurrent use. The zero Journal records nothing.
type Journal struct {
	file   *scmrights.FD
	data   []byte      // the mapping of the file; nil once closed
	end    int         // of the log: the place of the next record
	at     map[key]int // the places of the records in force
	live   int         // bytes of those records
	values []uint64    // of a record that is being made
	body   []byte      // the same
	sealed bool
	err    error
}

// Errors of Open.
var (
	ErrNotJournal = errors.New("it is not a broker's journal, or has an unknown layout")
	ErrDamaged    = errors.New("the journal is damaged")
)

// Layout names the layout of a new journal.
const Layout = "bstate3"

// Reads reports whether Open can read a journal with that layout.
func Reads(layout string) bool { return layout == Layout || layout == oldLayout }

// New returns an empty journal; the caller must close it.
func New() (*Journal, error) {
	n, err := unix.MemfdCreate(holders.BrokerMark, unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		n, err = unix.MemfdCreate(holders.BrokerMark, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	j := &Journal{file: scmrights.NewFD(n), end: headerSize, at: make(map[key]int)}
	for size := int64(fileSize); size >= leastSize; size /= 2 { // this process may have limits (setrlimit(2))
		if err = os.NewSyscallError("ftruncate", unix.Ftruncate(n, size)); err == nil {
			err = j.mapFile()
		}
		if err == nil {
			break
		}
	}
	if err != nil {
		j.Close()
		return nil, err
	}
	j.store(atStart, headerSize)
	j.store(atMagic, magic)
	return j, nil
}

// Open takes fd, the journal of an earlier broker, to go on in the same file; the caller must close the Journal. If
// that is nil the caller has to begin a new one: with an error because fd is damaged or no journal, without because its
// layout is an older one. The Contents are all that could be read, in any case.
func Open(fd *scmrights.FD) (*Journal, Contents, error) {
	j := &Journal{file: fd, at: make(map[key]int)}
	c := Contents{Listeners: make(map[uint32]*Listener), Grants: make(map[int64]*Grant)}
	if err := j.read(&c); err != nil || j.end == 0 {
		j.Close()
		return nil, c, err
	}
	return j, c, nil
}

// read reads the file. It leaves end 0 if that has the older layout.
func (j *Journal) read(c *Contents) error {
	err := j.mapFile()
	switch {
	case err != nil:
		return err
	case j.load(atMagic) == magic:
		err = j.replay(c)
	case j.load(atMagic) == oldMagic:
		err = j.replayOld(c)
	default:
		return ErrNotJournal
	}
	c.LastID = max(0, int64(j.load(atLastID)))
	c.Ending, c.Process = Ending(j.load(atEnding)), int(j.load(atProcess))
	for id := range c.Grants {
		c.LastID = max(c.LastID, id)
	}
	return err
}

// PutControl records the control socket.
func (j *Journal) PutControl(c Control) {
	j.put(kindControl, append(j.values[:0], 0, c.File.Dev, c.File.Ino), c.Path)
}

// PutListener records l, which it borrows, in place of an earlier one with its Token.
func (j *Journal) PutListener(l *Listener) {
	j.put(kindListener, l.appendTo(j.values[:0]), l.Spec)
}

// PutGrant records g, which it borrows, in place of an earlier one with its ID.
func (j *Journal) PutGrant(g *Grant) { j.put(kindGrant, g.appendTo(j.values[:0]), "") }

// RemoveListener removes the listener with that token, if there is one.
func (j *Journal) RemoveListener(token uint32) { j.remove(key{kindListener, uint64(token)}) }

// RemoveGrant removes the grant with that id, if there is one.
func (j *Journal) RemoveGrant(id int64) { j.remove(key{kindGrant, uint64(id)}) }

func (j *Journal) remove(k key) {
	if _, ok := j.at[k]; ok {
		j.put(k.kind, append(j.values[:0], k.id), "")
	}
}

// SetLastID records the last id that was given out.
func (j *Journal) SetLastID(id int64) { j.set(atLastID, uint64(id)) }

// SetEnding records how this broker ends, and the pid of the process in which another program is to go on, or 0.
func (j *Journal) SetEnding(e Ending, pid int) {
	j.set(atProcess, uint64(pid)) // first, because a new Ending counts at once
	j.set(atEnding, uint64(e))
}

// Seal preserves the grants for the next broker: from now on PutGrant and RemoveGrant
// change nothing, because the holders go on while this broker ends.
func (j *Journal) Seal() { j.sealed = true }

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
	if j.file != nil {
		_ = j.file.Close()
	}
}
