package sockdiag

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// If sock_diag cannot be asked, because its modules are missing or netlink is forbidden, /proc/net tells less: no
// cookie, no IPV6_V6ONLY and no interface, and of Unix sockets neither the file nor the user.

// Missing returns why sock_diag does not tell of the sockets of n; nil if it does. Then [Conflicts] and [Receivers] go
// by /proc/net, as does [Unix], which then returns all that it finds as byName.
func Missing(n *spec.Network) error {
	if n.In(spec.Inet) {
		return eachInet(unix.AF_INET, n.Protocol, 0, 0, func([]byte) {}) // no socket is in none of the states
	}
	return eachUnix(0, anyCookie, 0, 0, func(_, _ []byte) {})
}

// inetFile is the file that has the sockets of a family and a protocol.
func inetFile(family byte, protocol int) string {
	name := "/proc/net/tcp"
	if protocol == unix.IPPROTO_UDP {
		name = "/proc/net/udp"
	}
	if family == unix.AF_INET6 {
		name += "6"
	}
	return name
}

// eachInetLine calls each with the sockets in such a file whose state is one of states, and their local addresses.
func eachInetLine(file string, states uint32, each func(d Socket, local netip.AddrPort)) {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		local, ok := parseLocal(f[1])
		state, serr := strconv.ParseUint(f[3], 16, 5)
		uid, uerr := strconv.ParseUint(f[7], 10, 32)
		inode, ierr := strconv.ParseUint(f[9], 10, 64)
		if ok && serr == nil && uerr == nil && ierr == nil && states&(1<<state) != 0 {
			each(Socket{Inode: uint32(inode), UID: uint32(uid), state: byte(state)}, local)
		}
	}
}

// parseLocal parses ADDRESS:PORT in hexadecimal. The address is in words of 32 bits, each in the machine's byte order.
func parseLocal(text string) (local netip.AddrPort, ok bool) {
	address, port, _ := strings.Cut(text, ":")
	words, err := hex.DecodeString(address)
	n, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(words) != 4 && len(words) != 16 {
		return local, false
	}
	for i := 0; i < len(words); i += 4 {
		binary.NativeEndian.PutUint32(words[i:], binary.BigEndian.Uint32(words[i:]))
	}
	ip, _ := netip.AddrFromSlice(words)
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), true
}

// unixByName returns the Unix sockets with that address that listen or receive packets, from /proc/net/unix. The file's
// numbers are NUM REFCOUNT PROTOCOL FLAGS TYPE ST INODE PATH, all but the inode in hexadecimal.
func unixByName(address string) (all []Socket) {
	const listens = 1 << 16 // __SO_ACCEPTCON
	text, _ := os.ReadFile("/proc/net/unix")
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.Fields(line)
		if len(f) < 8 || !strings.HasSuffix(line, " "+address) {
			continue
		}
		flags, ferr := strconv.ParseUint(f[3], 16, 32)
		kind, kerr := strconv.ParseUint(f[4], 16, 8)
		inode, ierr := strconv.ParseUint(f[6], 10, 64)
		if before, _, _ := strings.Cut(line, " "+address); len(strings.Fields(before)) != 7 {
			continue // the path only ends like that
		}
		if ferr == nil && kerr == nil && ierr == nil && (kind == unix.SOCK_DGRAM || flags&listens != 0) {
			all = append(all, Socket{Inode: uint32(inode), NoUID: true, Type: byte(kind)})
		}
	}
	return all
}
