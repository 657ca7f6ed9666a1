package socket

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
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
	dup, err := fd.Dup() // newSocket takes it in any case
	if err != nil {
		return nil, err
	}
	sock, err := newSocket(s, is.Address, dup, backlogOf(s), file)
	if err != nil {
		return nil, err
	}
	if sock.adopted = saved.Adopted; !sock.adopted {
		sock.health.reusePort, sock.health.reuseAddr = false, sock.network().In(spec.TCP) // whatever a worker has set
	}
	_ = fd.Close()
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
	known := saved != sockfile.FileID{}
	was := sockfile.New(path, saved)
	if known && was.Backup() != nil {
		was.KeepBackup()
		return was, nil // Repair makes the path again if it was removed meanwhile
	}
	file, err := sockfile.Find(path)
	if err != nil {
		return nil, err
	}
	if known && !file.Same(was) {
		return nil, fmt.Errorf("%s is another file now", path)
	}
	file.KeepBackup()
	return file, nil
}
