package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// An Origin says which program has opened a socket.
type Origin int

const (
	// Foreign is another program. Its socket may be at another address than the spec says. The options of the spec are
	// applied as far as they can be to a socket that is bound, and so are O_NONBLOCK and the backlog, also if the spec
	// leaves them to the default. The option v6only cannot be applied: it is an error if IPv4 would come in all the
	// same. Close leaves a Unix socket's path to the program that made it.
	Foreign Origin = iota
	// Ours is an earlier broker of this user, whose socket only its holders have kept. It must be at the very address
	// of the spec, whose port must not be 0. Its options are applied, except O_NONBLOCK, which its holders share.
	Ours
)

// Adopt takes fd, a bound socket, and returns it as that of s. It must be of the network of s and, if that has
// connections, listen. If the network is [spec.Any], which only a Foreign descriptor can have, it may be anything. The
// caller must close it. The error is a [*BindError].
func Adopt(s spec.Spec, fd *scmrights.FD, from Origin) (*Socket, error) {
	var sock *Socket
	var err error
	switch {
	case s.Network == spec.Any:
		sock, err = adoptAny(s, fd)
	case from == Ours:
		sock, err = reclaim(s, fd, 0)
	default:
		if sock, err = adopt(s, fd, nil); err == nil {
			sock.adopted = true
		}
	}
	if err != nil {
		return nil, newBindError(s, errors.Join(err, fd.Close()))
	}
	return sock, nil
}

// adopt returns the socket of s, which borrows fd until it succeeds. If check is given, others may be using fd:
// O_NONBLOCK stays, and check must say that the socket is the right one before anything of it is changed.
func adopt(s spec.Spec, fd *scmrights.FD, check func(sockdiag.Identity, int) error) (*Socket, error) {
	if spec.NetworkOf(s.Network) == nil {
		return nil, fmt.Errorf("unknown network %q", s.Network)
	}
	var is sockdiag.Identity
	backlog := 0
	err := control(fd, func(num int) (err error) {
		if is, backlog, err = applyTo(s, num, check); err != nil || check != nil {
			return err
		}
		return os.NewSyscallError("fcntl", unix.SetNonblock(num, !s.Opts().Blocking))
	})
	if err != nil {
		return nil, err
	}
	return newSocket(s, is.Address, fd, backlog, nil)
}

// applyTo applies the options of s to a socket that can be that of s and passes check, which may be nil. It returns the
// identity of the socket, and the backlog that it then has.
func applyTo(s spec.Spec, fd int, check func(sockdiag.Identity, int) error) (
	is sockdiag.Identity, backlog int, err error) {
	if is, err = sockdiag.Identify(fd); err == nil {
		err = suits(is, s)
	}
	if err == nil && check != nil {
		err = check(is, fd)
	}
	switch {
	case err != nil:
		return is, 0, err
	case is.Network().In(spec.Unix):
		err = setOwner(is, s, fd)
	default:
		err = setOptions(fd, changes(new(spec.Options), s.Opts()))
	}
	if err == nil {
		backlog, err = listen(s, fd)
	}
	return is, backlog, err
}

// adoptAny returns the descriptor of s, and borrows fd until it succeeds.
func adoptAny(s spec.Spec, fd *scmrights.FD) (*Socket, error) {
	cookie, err := sockdiag.Ask(fd, cookieOf)
	if err != nil && !errors.Is(err, unix.ENOTSOCK) {
		return nil, err
	}
	sock := &Socket{address: s.Address, fd: fd, cookie: cookie}
	sock.setSpec(s)
	return sock, nil
}

// suits returns an error if a socket cannot be that of s.
func suits(is sockdiag.Identity, s spec.Spec) error {
	n := spec.NetworkOf(s.Network)
	if !is.In(n) {
		return fmt.Errorf("the socket that was passed is %s, and the spec's network is %s", is, n.Name)
	}
	if (n.In(spec.Only6) || s.Opts().V6Only) && !is.V6Only && is.TakesAll() {
		return fmt.Errorf("the socket %s that was passed takes IPv4 as well, and the spec does not want that; "+
			"BindIPv6Only=ipv6-only is systemd's setting", is)
	}
	return nil
}

// setOwner gives the file of a Unix socket the mode and owners that s says, if any.
func setOwner(is sockdiag.Identity, s spec.Spec, fd int) error {
	owner, err := sockfile.OwnerOf(s.Opts())
	switch {
	case err != nil || owner.IsNone():
		return err
	case strings.HasPrefix(is.Address, "@"):
		return fmt.Errorf("the socket %s that was passed has no file, so it cannot have the options mode, user and group", is)
	}
	_, err = owner.Give(fd, is.Address, false)
	return err
}

// errForeign says that a socket is not one that a broker of this user has opened.
var errForeign = errors.New("no broker of this user has opened it")

// reclaim returns the socket of s that is Ours and has that inode, unless it is 0. It borrows fd until it succeeds. The
// cookie would not do: of an MPTCP socket, sock_diag tells that of its subflow.
func reclaim(s spec.Spec, fd *scmrights.FD, inode uint32) (*Socket, error) {
	var file *sockfile.File
	sock, err := adopt(s, fd, func(is sockdiag.Identity, num int) error {
		var st unix.Stat_t
		err := unix.Fstat(num, &st)
		switch {
		case err != nil:
			return os.NewSyscallError("fstat", err)
		case !isMarked(&st):
			return fmt.Errorf("the socket %s: %w", is, errForeign)
		case inode != 0 && uint32(st.Ino) != inode:
			return errors.New("it is a different socket now")
		}
		file, err = fileAt(is, s, num)
		return err
	})
	if err != nil {
		return nil, err
	}
	sock.held = true
	if sock.file = file; file != nil {
		file.KeepBackup()
	}
	return sock, nil
}

// fileAt returns the file of a socket, if it has one. It is an error if the socket is not at the address of s.
func fileAt(is sockdiag.Identity, s spec.Spec, fd int) (*sockfile.File, error) {
	elsewhere := fmt.Errorf("the socket is %s, and not at the address of the spec", is)
	if is.Network().In(spec.Inet) {
		ends, err := s.Endpoints()
		if err == nil && !slices.ContainsFunc(ends, is.IsAt) {
			err = elsewhere
		}
		return nil, err
	}
	if is.Address != s.Address {
		return nil, elsewhere
	}
	if strings.HasPrefix(s.Address, "@") {
		return nil, nil
	}
	file, err := sockfile.Find(s.Address)
	if err != nil {
		return nil, elsewhere
	}
	if !file.IsOf(fd) {
		return nil, fmt.Errorf("the file at %s is not the one of the socket that was bound there", s.Address)
	}
	return file, nil
}

// IsAt reports whether fd, which it borrows, is a socket of the network and at the address of s, as far as these can be
// compared: a host's name cannot.
func IsAt(s spec.Spec, fd *scmrights.FD) bool {
	n := spec.NetworkOf(s.Network)
	retired := false
	is, err := sockdiag.Ask(fd, func(fd int) (sockdiag.Identity, error) {
		retired = isRetired(fd)
		return sockdiag.Identify(fd)
	})
	return err == nil && !retired && n != nil && is.In(n) && sameAddress(s.Address, is.Address)
}

// sameAddress compares the address of a spec with one that was bound. An address without a host means all addresses of
// the machine.
func sameAddress(address, bound string) bool {
	port, isAll := strings.CutPrefix(address, ":")
	at, err := netip.ParseAddrPort(bound)
	if !isAll || err != nil {
		return address == bound
	}
	return at.Addr().IsUnspecified() && fmt.Sprint(at.Port()) == port
}

// markMode marks the sockets of brokers. A socket has an inode of its own, whose mode the kernel ignores once the
// socket is bound, and no other program sets this mode. So a broker knows a socket that an earlier broker has opened,
// in whatever process it finds it, from another program's socket at the same address. The inode's owner is the user
// that made the socket; only that user or root can change its mode.
const markMode = unix.S_ISVTX | 0o600

// mark marks a socket as a broker's. It fails if another user has made the socket, which then is none of ours.
func mark(fd int) { _ = unix.Fchmod(fd, markMode) }

// isMarked reports whether a broker of this user has opened the socket that st describes.
func isMarked(st *unix.Stat_t) bool {
	return st.Mode&^unix.S_IFMT == markMode && st.Uid == uint32(os.Geteuid())
}
