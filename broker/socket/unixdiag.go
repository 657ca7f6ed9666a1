//go:build linux

package socket

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

// unixDiagRequest asks for the socket of that inode and cookie, or for all.
func unixDiagRequest(inode uint32, cookie uint64, show uint32) []byte {
	b := make([]byte, unixDiagReqSize)
	b[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // in any state
	binary.NativeEndian.PutUint32(b[8:], inode)
	binary.NativeEndian.PutUint32(b[12:], show)
	binary.NativeEndian.PutUint32(b[16:], uint32(cookie))
	binary.NativeEndian.PutUint32(b[20:], uint32(cookie>>32))
	return b
}

// unixQueue returns how many connections wait at a listening socket, and how
// many may.
func unixQueue(inode uint32, cookie uint64) (queue, limit uint32, err error) {
	found := false
	err = diag(unixDiagRequest(inode, cookie, unixShowQueue), false, func(body []byte) {
		if len(body) < unixDiagMsgSize {
			return
		}
		if v := attribute(body[unixDiagMsgSize:], unixAttrQueue); len(v) >= 8 {
			found = true
			queue, limit = binary.NativeEndian.Uint32(v), binary.NativeEndian.Uint32(v[4:])
		}
	})
	if err == nil && !found {
		err = errDiag
	}
	return queue, limit, err
}

// unixFigures are how many connections wait at a listening socket, and how many may.
type unixFigures struct{ queue, limit uint32 }

// unixQueues returns those of all sockets that listen, by cookie; n says how many are to be
// expected. Of an error nothing is said: what is missing can be asked for by itself.
func unixQueues(n int) map[uint64]unixFigures {
	all := make(map[uint64]unixFigures, n)
	request := unixDiagRequest(0, ^uint64(0), unixShowQueue)
	binary.NativeEndian.PutUint32(request[4:], 1<<tcpListen)
	_ = diag(request, true, func(body []byte) {
		if len(body) < unixDiagMsgSize {
			return
		}
		if v := attribute(body[unixDiagMsgSize:], unixAttrQueue); len(v) >= 8 {
			all[diagCookie(body[8:])] = unixFigures{binary.NativeEndian.Uint32(v), binary.NativeEndian.Uint32(v[4:])}
		}
	})
	return all
}

// holdersOfUnix returns who has address, abstract or a path whose file is file
// (or nil). Accepted sockets carry the name of the one that accepted them, so
// only those that listen or receive packets count.
func holdersOfUnix(address string, file *socketFile) holders {
	byFile, byName := unixSockets(address, file)
	if len(byFile) > 0 {
		return holdersOf(byFile) // an older socket may have had the same name
	}
	return holdersOf(byName)
}

// unixSockets returns the sockets of this network namespace whose file is file, and
// those besides that only have the same address.
func unixSockets(address string, file *socketFile) (byFile, byName []diagSocket) {
	// On an error nobody is named; the address is in use all the same.
	_ = diag(unixDiagRequest(0, ^uint64(0), unixShowName|unixShowVFS|unixShowUID), true, func(body []byte) {
		if len(body) < unixDiagMsgSize || body[1] != unix.SOCK_DGRAM && body[2] != tcpListen {
			return
		}
		attrs := body[unixDiagMsgSize:]
		d := diagSocket{inode: binary.NativeEndian.Uint32(body[4:]), cookie: diagCookie(body[8:]), sotype: body[1]}
		if v := attribute(attrs, unixAttrUID); len(v) >= 4 {
			d.uid = binary.NativeEndian.Uint32(v)
		}
		if file.isDiag(attribute(attrs, unixAttrVFS)) {
			byFile = append(byFile, d)
		} else if unixName(attribute(attrs, unixAttrName)) == address {
			byName = append(byName, d)
		}
	})
	return byFile, byName
}

// unixName returns a name from sock_diag as a spec has it.
func unixName(name []byte) string {
	if len(name) > 0 && name[0] == 0 {
		return "@" + string(name[1:])
	}
	return strings.TrimRight(string(name), "\x00")
}
