//go:build linux

package notify

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Over returns the manager at the other end of a socket pair, of which it takes this end.
// Each message that is sent there is a datagram (SOCK_SEQPACKET). The rest is as m is,
// which may be nil.
func Over(end *os.File, m *Manager) (*Manager, error) {
	conn, err := scmrights.NewConn(end)
	if err != nil {
		_ = end.Close()
		return nil, err
	}
	return &Manager{pair: end, conn: conn, watchdog: m.Watchdog()}, nil
}

// Store gives fd, which it borrows, to the manager to keep by that name, and not to look
// at (sd_pid_notify_with_fds(3)).
func (m *Manager) Store(name string, fd *scmrights.FD) error {
	return m.send([]byte("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0"), fd)
}

// Unstore makes the manager close what it keeps by that name.
func (m *Manager) Unstore(name string) error {
	return m.send([]byte("FDSTOREREMOVE=1\nFDNAME=" + name))
}

// send sends one message, with descriptors.
func (m *Manager) send(b []byte, fds ...*scmrights.FD) error {
	if m == nil {
		return errors.New("there is no service manager")
	}
	if m.pair != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		_ = m.pair.SetWriteDeadline(time.Now().Add(sendTime))
		return told(m.conn.Send(b, fds...))
	}
	// A socket for each message: the manager may have made its own anew.
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return told(os.NewSyscallError("socket", err))
	}
	f := os.NewFile(uintptr(n), "notify")
	defer f.Close()
	rc, err := f.SyscallConn()
	if err != nil {
		return told(err)
	}
	if err := connect(rc, m.addr.Name); err != nil {
		return told(err)
	}
	conn, err := scmrights.NewConn(f)
	if err != nil {
		return told(err)
	}
	_ = f.SetWriteDeadline(time.Now().Add(sendTime))
	return told(conn.Send(b, fds...))
}

func connect(rc syscall.RawConn, address string) error {
	var err error
	cerr := rc.Control(func(n uintptr) { err = unix.Connect(int(n), &unix.SockaddrUnix{Name: address}) })
	return errors.Join(cerr, os.NewSyscallError("connect", err))
}

func told(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("tell the service manager: %w", err)
}
