package sockfile

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// An Owner is the mode and the owners that a file is to have.
type Owner struct {
	Mode     *os.FileMode // nil leaves it
	UID, GID int          // -1 leaves it
}

// OwnerOf returns the owner that the options mode, user and group say.
func OwnerOf(o *spec.Options) (Owner, error) {
	uid, gid, err := o.Owner()
	if err == nil {
		err = cmp.Or(checkMapped("user", "uid", uid), checkMapped("group", "gid", gid))
	}
	return Owner{o.Mode, uid, gid}, err
}

// checkMapped returns an error if an id, unless it is -1, does not exist in the user namespace of this process
// (user_namespaces(7)): the kernel would only say that it is invalid.
func checkMapped(option, kind string, id int) error {
	path := "/proc/self/" + kind + "_map"
	text, err := os.ReadFile(path)
	if err != nil || id < 0 {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		var inside, outside, count int64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil || int64(id) >= inside && int64(id)-inside < count {
			return nil
		}
	}
	return spec.Problemf(unix.EINVAL, "option %s: there is no %s %d in this user namespace (%s)", option, kind, id, path)
}

// IsNone reports whether o leaves everything as it is.
func (o Owner) IsNone() bool { return o == Owner{nil, -1, -1} }

// beforeBind keeps out, from the file's first moment, every user that the mode keeps out: bind takes the file's mode
// from the socket, less the umask, and a socket of packets can be sent to as soon as it is bound. Until the file has
// its owners it has only the owner's part of the mode.
func (o Owner) beforeBind(sock int) error {
	if o.Mode == nil {
		return nil
	}
	return spec.Refused("mode", "fchmod", unix.Fchmod(sock, uint32(o.Mode.Perm()&0o700)))
}

// apply changes the file by its descriptor: by its path, a symbolic link put there could lead to another file.
func (o Owner) apply(own *boundFile) error {
	option := "group"
	if o.UID >= 0 {
		option = "user"
	}
	if o.UID >= 0 || o.GID >= 0 {
		err := unix.Fchownat(own.fd, "", o.UID, o.GID, unix.AT_EMPTY_PATH)
		if err := spec.Refused(option, "fchownat", err); err != nil {
			return err
		}
	}
	if o.Mode == nil {
		return nil
	}
	// fchmod refuses an O_PATH descriptor; its link in /proc does not (open(2)).
	link, mode := "/proc/self/fd/"+strconv.Itoa(own.fd), uint32(o.Mode.Perm())
	err := unix.Chmod(link, mode)
	if err != unix.ENOENT {
		return spec.Refused("mode", "chmod", err)
	}
	if unix.Fchmodat(own.fd, "", mode, unix.AT_EMPTY_PATH) == nil { // fchmodat2, Linux 6.6
		return nil
	}
	return &spec.OptionError{Option: "mode", Err: &fs.PathError{Op: "chmod", Path: link, Err: err}}
}

// Give gives the file of a Unix socket that is bound to path these owners and then this mode. It returns the file, also
// on an error if the socket's file is there. It is an error if something else is at path, which is left alone, and, if
// made is true, if this process cannot have made the file.
func (o Owner) Give(sock int, path string, made bool) (*File, error) {
	own, err := openBound(sock, path)
	if err != nil {
		return nil, err
	}
	defer own.close()
	if made && !o.IsNone() && !own.sure && own.uid != uint32(os.Geteuid()) {
		return nil, replaced(path)
	}
	return own.File, o.apply(own)
}

// Change gives the file of a Unix socket that is bound to path the owners and the mode of o, if was had others. What o
// leaves open becomes what bind(2) would give a new file.
func (o Owner) Change(was Owner, sock int, path string) error {
	set := Owner{UID: -1, GID: -1}
	if o.UID != was.UID {
		if set.UID = o.UID; set.UID < 0 {
			set.UID = os.Geteuid()
		}
	}
	if o.GID != was.GID {
		if set.GID = o.GID; set.GID < 0 {
			set.GID = os.Getegid()
		}
	}
	sameMode := o.Mode == nil && was.Mode == nil || o.Mode != nil && was.Mode != nil && *o.Mode == *was.Mode
	if set.Mode = o.Mode; sameMode {
		set.Mode = nil
	} else if set.Mode == nil {
		umask, err := umask()
		if err != nil {
			return err
		}
		set.Mode = new(0o777 &^ umask)
	}
	if set.IsNone() {
		return nil
	}
	_, err := set.Give(sock, path, false)
	return err
}

// umask returns this process's umask. Umask(2) would change it for a moment, for all threads.
func umask() (os.FileMode, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "\nUmask:")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseUint(strings.TrimSpace(line), 8, 32)
	return os.FileMode(n), err
}

// siocUnixFile is SIOCUNIXFILE (linux/un.h), which opens the file of a Unix socket, as O_PATH and close-on-exec. It
// takes CAP_NET_ADMIN, which root usually has.
const siocUnixFile = 0x89e0

// A boundFile is the file of a Unix socket of this process, and a descriptor of it. At its path may be another file at
// any time: the owner of a directory on the way can exchange that directory, or the file.
type boundFile struct {
	*File
	fd   int    // O_PATH
	uid  uint32 // of the file's owner
	sure bool   // the kernel opened it by the socket
}

// openBound opens the file of a Unix socket that is bound to path; the caller must close it. It is an error if another
// file is at path.
func openBound(sock int, path string) (*boundFile, error) {
	at, err := Find(path)
	if err != nil {
		return nil, err
	}
	if at.kind != unix.S_IFSOCK {
		return nil, spec.Problemf(unix.EADDRINUSE, "somebody else put %s at %s", at.kindName(), path)
	}
	fd, err := unix.IoctlRetInt(sock, siocUnixFile)
	sure := err == nil
	if !sure { // the kernel does not let this process do that
		fd, err = unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	var st unix.Stat_t
	err = os.NewSyscallError("fstat", unix.Fstat(fd, &st))
	file := &boundFile{fileOf(path, &st), fd, st.Uid, sure}
	if known, own := file.isOf(sock); err == nil && (!file.Same(at) || !sure && known && !own) {
		err = replaced(path)
	}
	if err != nil {
		file.close()
		return nil, err
	}
	return file, nil
}

func (f *boundFile) close() { _ = unix.Close(f.fd) }

// isOf reports whether the kernel knows any socket by the file, and if that is sock. On some filesystems, such as
// overlayfs, it knows none, because its number of a file is not that of stat(2).
func (f *File) isOf(sock int) (known, own bool) {
	var st unix.Stat_t
	if err := unix.Fstat(sock, &st); err != nil {
		return true, false
	}
	byFile, _ := sockdiag.Unix(f.path, f.id)
	return len(byFile) > 0, slices.ContainsFunc(byFile, func(d sockdiag.Socket) bool { return d.Inode == uint32(st.Ino) })
}

// IsOf reports whether the kernel knows f as the file of sock. If it cannot be asked, the path at which sock is bound
// has to do.
func (f *File) IsOf(sock int) bool {
	if _, own := f.isOf(sock); own {
		return true
	}
	at, err := sockdiag.BoundTo(sock)
	return err == nil && at == f.path && sockdiag.Missing(spec.NetworkOf("unix")) != nil
}

func replaced(path string) error {
	return spec.Problemf(unix.EADDRINUSE, "somebody else replaced %s", path)
}
