package notify

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Over returns the manager at the other end of a socket pair, of which it takes this end.
// Each message is a datagram (SOCK_SEQPACKET). The watchdog is that of m, which may be nil.
func Over(end *os.File, m *Manager) (*Manager, error) {
	conn, err := scmrights.NewConn(end)
	if err != nil {
		_ = end.Close()
		return nil, err
	}
	return &Manager{pair: end, conn: conn, watchdog: m.Watchdog()}, nil
}

// Store gives fd, which it borrows, to the manager to keep by that name, without a look at it
// (sd_pid_notify_with_fds(3)).
func (m *Manager) Store(name string, fd *scmrights.FD) error {
	return m.send([]byte("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0"), fd)
}

// Unstore makes the manager close the descriptors of that name.
func (m *Manager) Unstore(name string) error {
	return m.send([]byte("FDSTOREREMOVE=1\nFDNAME=" + name))
}

// send sends one message, with descriptors.
func (m *Manager) send(b []byte, fds ...*scmrights.FD) error {
	switch {
	case m == nil:
		return errors.New("there is no service manager")
	case m.pair == nil:
		return wrap(sendTo(m.addr.Name, b, fds))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.pair.SetWriteDeadline(time.Now().Add(sendTime))
	return wrap(m.conn.Send(b, fds...))
}

// sendTo sends a message over a new socket, because the manager may have made its own anew.
func sendTo(address string, b []byte, fds []*scmrights.FD) error {
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(n), "notify")
	defer f.Close()
	if err := unix.Connect(n, &unix.SockaddrUnix{Name: address}); err != nil {
		return os.NewSyscallError("connect", err)
	}
	conn, err := scmrights.NewConn(f)
	if err != nil {
		return err
	}
	_ = f.SetWriteDeadline(time.Now().Add(sendTime))
	return conn.Send(b, fds...)
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("tell the service manager: %w", err)
}
