package socket

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/kernel"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Saved is the data that an earlier process has saved of a socket.
type Saved struct {
	Cookie  uint64 // see [Socket.Cookie]; 0: not known
	Adopted bool   // see [Socket.Adopted]
	File    sockfile.FileID
}

// Restore returns the socket of the spec with that text, as [Open] or [Adopt] has returned it to an earlier process of
// the broker. It takes fd if it succeeds. It changes nothing that other holders may be using, except that a socket that
// has stopped listening listens again. It must be the very socket that was saved and, unless it was adopted, still have
// its path or a backup link.
//
// If text is no valid spec any more, because it names a user that is gone, the socket is that of its name and address,
// without options.
func Restore(text string, fd *scmrights.FD, saved Saved) (*Socket, error) {
	name, rest, _ := strings.Cut(text, "=")
	if strings.HasPrefix(rest, spec.Any+"://") {
		_, options, _ := strings.Cut(rest, ",")
		s, err := Donation{name, options, true}.Spec(fd)
		if err != nil {
			return nil, err
		}
		return adoptAny(s, fd)
	}
	s, err := spec.Parse(text)
	if err != nil {
		if s, err = (Donation{Name: name, Options: "blocking=no"}).Spec(fd); err != nil {
			return nil, err
		}
	}
	is, file, err := identifySaved(s, fd, saved)
	if err != nil {
		return nil, err
	}
	sock, err := newSocket(s, is.Address, fd, backlogOf(s), file)
	if err != nil {
		return nil, err
	}
	if sock.adopted = saved.Adopted; !sock.adopted {
		sock.health.reusePort, sock.health.reuseAddr = false, sock.network().In(spec.TCP) // whatever a worker has set
	}
	_, _ = sock.Repair() // the health monitor reports what cannot be undone
	return sock, nil
}

// identifySaved returns the identity of fd, and its file if it has one. It is an error if that is not the socket that
// was saved.
func identifySaved(s spec.Spec, fd *scmrights.FD, saved Saved) (is sockdiag.Identity, file *sockfile.File, err error) {
	n := spec.NetworkOf(s.Network)
	err = control(fd, func(num int) (err error) {
		lerr := listenAgain(s, num)
		is, err = sockdiag.Identify(num)
		cookie, cerr := cookieOf(num)
		switch err = cmp.Or(lerr, err, cerr); {
		case err != nil:
		case !is.In(n):
			err = fmt.Errorf("it is %s", is)
		case saved.Cookie != 0 && cookie != saved.Cookie:
			err = errors.New("it is another socket")
		case !saved.Adopted && n.In(spec.Unix) && is.Address[0] != '@':
			file, err = savedFile(is.Address, saved.File)
		}
		return err
	})
	return is, file, err
}

// listenAgain makes a TCP socket listen that has stopped: a worker may have shut it down while no broker ran.
func listenAgain(s spec.Spec, fd int) error {
	on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || on != 0 || !spec.NetworkOf(s.Network).In(spec.TCP) {
		return nil // Identify says what is wrong
	}
	_, err = listen(s, fd)
	return err
}

// savedFile returns the file at path if it is the one that was saved. The zero FileID is any file.
func savedFile(path string, saved sockfile.FileID) (*sockfile.File, error) {
	if was := sockfile.New(path, saved); was.KeepBackup() {
		return was, nil // Repair makes the path again if it was removed meanwhile
	}
	file, err := sockfile.Find(path)
	if err != nil {
		return nil, err
	}
	if saved != (sockfile.FileID{}) && file.ID() != saved {
		return nil, fmt.Errorf("%s is another file now", path)
	}
	file.KeepBackup()
	return file, nil
}

// Recovered is the result of [Recover] for one spec.
type Recovered struct {
	Socket  *Socket           // nil if it was not recovered; the caller must close it, or Abort
	Holders []holders.Process // had it open; without those that have it from a parent which is among them
	Why     string            // it was not recovered; empty if it is another program's
	// MayHandBack reports that a holder could still hand it back: it may be ours, and this process may not take it.
	MayHandBack bool
}

// Recover looks for the sockets that a broker of this user has opened by these specs, and takes them from the processes
// that still hold them. It takes a duplicate (pidfd_getfd(2)), which those do not notice, and needs the right to trace
// such a process (ptrace(2)): the same user has it unless Yama denies it, and usually root. It looks at every process
// once, for at most three seconds.
//
// It leaves alone an address at which there is more than one socket, another program's socket, and a socket that
// another broker has.
func Recover(specs []spec.Spec) []Recovered {
	results := make([]Recovered, len(specs))
	wanted := make(map[uint32]int) // which spec, by the inode of its socket
	for i, s := range specs {
		d, why := occupant(s)
		switch {
		case why != "":
			results[i].Why = why
		case d.Inode == 0:
			if why := kernel.Explain(sockdiag.Missing(spec.NetworkOf(s.Network))); why != "" {
				results[i] = Recovered{Why: "which socket has the address cannot be seen: " + why, MayHandBack: true}
			}
		case d.NoUID || d.UID == uint32(os.Geteuid()):
			wanted[d.Inode] = i
		}
	}
	brokers := make(map[int]bool)
	isBroker := func(pid int) bool {
		is, known := brokers[pid]
		if !known {
			is = holders.IsBroker(pid)
			brokers[pid] = is
		}
		return is
	}
	seen, _ := holders.Sightings(slices.Collect(maps.Keys(wanted)))
	for inode, i := range wanted {
		results[i] = recoverFrom(specs[i], inode, seen[inode], isBroker)
	}
	return results
}

// occupant returns the one socket that has the address of s. If there are several, or something else is wrong, it says
// why there is none.
func occupant(s spec.Spec) (d sockdiag.Socket, why string) {
	n := spec.NetworkOf(s.Network)
	var there []sockdiag.Socket
	switch {
	case n == nil:
		return d, fmt.Sprintf("unknown network %q", s.Network)
	case n.In(spec.Inet):
		ends, err := s.Endpoints()
		if err != nil {
			return d, spec.Reason(err)
		}
		for _, end := range ends {
			if there = sockdiag.Receivers(s, end); len(there) > 0 {
				break
			}
		}
	default:
		byFile, byName := sockdiag.Unix(s.Address, sockfile.IDOf(s.Address))
		if there = byFile; strings.HasPrefix(s.Address, "@") || sockdiag.Missing(n) != nil {
			there = byName
		}
		there = slices.DeleteFunc(there, func(d sockdiag.Socket) bool { return int(d.Type) != n.Type })
	}
	if len(there) > 1 {
		const advice = "none of them is taken back: stop their processes"
		return d, fmt.Sprintf("%d sockets share the address, and %s", len(there), advice)
	}
	if len(there) == 1 {
		d = there[0]
	}
	return d, ""
}

// recoverFrom takes the socket of s with that inode from the first process that lets it, unless a broker has it.
func recoverFrom(s spec.Spec, inode uint32, seen []holders.Sighting, isBroker func(pid int) bool) Recovered {
	for _, at := range seen {
		if isBroker(at.PID) {
			return Recovered{Why: fmt.Sprintf("pid %d (%s) is a broker that runs, and has it", at.PID, procfs.Name(at.PID))}
		}
	}
	r := Recovered{Why: "its process was not found: stop the workers first, or give the broker CAP_SYS_PTRACE", MayHandBack: true}
	for _, at := range seen {
		fd, err := at.Take()
		if err != nil {
			r.Why = fmt.Sprintf("it cannot be taken from pid %d (%s): %s", at.PID, procfs.Name(at.PID), spec.Reason(err))
			if why := kernel.Explain(err); why != "" {
				r.Why += ": " + why
			}
			continue
		}
		sock, err := reclaim(s, fd, inode)
		if err == nil {
			return Recovered{Socket: sock, Holders: holders.Topmost(seen)}
		}
		_ = fd.Close()
		r.Why, r.MayHandBack = spec.Reason(err), false
		if errors.Is(err, errForeign) {
			r.Why = ""
		}
	}
	return r
}
