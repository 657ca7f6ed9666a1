package sockdiag

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// The kernel's struct unix_diag_req and unix_diag_msg (linux/unix_diag.h).
const (
	unixDiagReqSize = 24
	unixDiagMsgSize = 16

	unixShowName  = 1 << 0
	unixShowVFS   = 1 << 1
	unixShowQueue = 1 << 4
	unixShowUID   = 1 << 6

	unixAttrName  = 0
	unixAttrVFS   = 1
	unixAttrQueue = 4
	unixAttrUID   = 7
)

const (
	anyState  = ^uint32(0)
	anyCookie = ^uint64(0)
)

// eachUnix asks for the socket of that inode and cookie, or for all in the states, and calls each with the message and
// the attributes of every answer.
func eachUnix(inode uint32, cookie uint64, states, show uint32, each func(msg, attrs []byte)) error {
	b := make([]byte, unixDiagReqSize)
	b[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(b[4:], states)
	binary.NativeEndian.PutUint32(b[8:], inode)
	binary.NativeEndian.PutUint32(b[12:], show)
	binary.NativeEndian.PutUint32(b[16:], uint32(cookie))
	binary.NativeEndian.PutUint32(b[20:], uint32(cookie>>32))
	err := diag(b, cookie == anyCookie, func(body []byte) {
		if len(body) >= unixDiagMsgSize {
			each(body, body[unixDiagMsgSize:])
		}
	})
	if cookie == anyCookie {
		return absent("unix_diag", err)
	}
	return err
}

// Queue is how many connections wait at a listening socket, and how many may.
type Queue struct{ Waiting, Limit uint32 }

func queueOf(attrs []byte) (q Queue, ok bool) {
	v := attribute(attrs, unixAttrQueue)
	if len(v) < 8 {
		return q, false
	}
	return Queue{binary.NativeEndian.Uint32(v), binary.NativeEndian.Uint32(v[4:])}, true
}

// unixQueue returns the queue of a listening Unix socket. It can only be asked for in the network namespace in which
// the socket was made.
func unixQueue(inode uint32, cookie uint64) (q Queue, err error) {
	found := false
	err = eachUnix(inode, cookie, anyState, unixShowQueue, func(_, attrs []byte) { q, found = queueOf(attrs) })
	if err == nil && !found {
		err = errDiag
	}
	return q, err
}

// UnixQueues returns the queues of all listening Unix sockets, by cookie. On an error some are missing: [FiguresOf]
// asks for each.
func UnixQueues() map[uint64]Queue {
	all := make(map[uint64]Queue)
	_ = eachUnix(0, anyCookie, 1<<Listen, unixShowQueue, func(msg, attrs []byte) {
		if q, ok := queueOf(attrs); ok {
			all[cookieOf(msg[8:])] = q
		}
	})
	return all
}

// Unix returns the Unix sockets whose file is file, and those of other files that have the same address. Accepted
// sockets carry the name of their listener, so only sockets that listen or receive packets count. If sock_diag cannot be
// asked, it goes by /proc/net: see [Missing].
func Unix(address string, file FileID) (byFile, byName []Socket) {
	err := eachUnix(0, anyCookie, anyState, unixShowName|unixShowVFS|unixShowUID, func(msg, attrs []byte) {
		if msg[1] != unix.SOCK_DGRAM && msg[2] != Listen {
			return
		}
		d := Socket{Inode: binary.NativeEndian.Uint32(msg[4:]), Cookie: cookieOf(msg[8:]), Type: msg[1]}
		if v := attribute(attrs, unixAttrUID); len(v) >= 4 {
			d.UID = binary.NativeEndian.Uint32(v)
		}
		if file.isDiag(attribute(attrs, unixAttrVFS)) {
			byFile = append(byFile, d)
		} else if unixName(attribute(attrs, unixAttrName)) == address {
			byName = append(byName, d)
		}
	})
	if err != nil {
		return nil, unixByName(address)
	}
	return byFile, byName
}

// unixName returns a name from sock_diag as a spec has it.
func unixName(name []byte) string {
	if len(name) > 0 && name[0] == 0 {
		return "@" + string(name[1:])
	}
	return strings.TrimRight(string(name), "\x00")
}

// FileID says which file something is. The zero FileID is no file.
type FileID struct{ Dev, Ino uint64 }

// FileIDOf returns the file that st describes.
func FileIDOf(st *unix.Stat_t) FileID { return FileID{uint64(st.Dev), st.Ino} }

// isDiag reports whether f is the file in a UNIX_DIAG_VFS attribute, which has the kernel's own device number (20 bits
// of minor).
func (f FileID) isDiag(attr []byte) bool {
	if f == (FileID{}) || len(attr) < 8 {
		return false
	}
	ino, dev := binary.NativeEndian.Uint32(attr), binary.NativeEndian.Uint32(attr[4:])
	return ino == uint32(f.Ino) && dev>>20 == unix.Major(f.Dev) && dev&(1<<20-1) == unix.Minor(f.Dev)
}
