// Package notify tells the service manager that started this process how it is doing, and gives it descriptors to keep,
// in the protocol of sd_notify(3). It neither logs nor decides anything.
package notify

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// The states of a service.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	Alive    = "WATCHDOG=1"
)

// sendTime bounds how long a manager that does not read may delay this process.
const sendTime = time.Second

// Manager is the service manager of this process. The nil Manager is none: telling it something does nothing. Its
// methods may be called concurrently.
type Manager struct {
	address  string
	pair     *os.File // instead of address, see Over
	watchdog time.Duration
}

// FromEnvironment returns the manager that NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID name, or nil if there is none.
// It removes the three from the environment, because they are not for the processes that this one starts. The error
// names a value that cannot be used; the Manager is good for the rest.
func FromEnvironment() (*Manager, error) {
	interval, werr := watchdog(take("WATCHDOG_USEC"), take("WATCHDOG_PID"))
	m, err := at(take("NOTIFY_SOCKET"))
	if m != nil {
		m.watchdog = interval
	}
	return m, errors.Join(err, werr)
}

// Tell sends states to the manager that NOTIFY_SOCKET names, if there is one. It leaves the environment as it is, because
// it is for a process whose other parts may want it too.
func Tell(states ...string) error {
	m, err := at(os.Getenv("NOTIFY_SOCKET"))
	return errors.Join(err, m.Tell(states...))
}

// at returns the manager at an address, or nil if that is "" or of no use.
func at(address string) (*Manager, error) {
	switch {
	case address == "":
		return nil, nil
	case address[0] != '/' && address[0] != '@':
		return nil, fmt.Errorf("NOTIFY_SOCKET=%s: neither a path nor an abstract name, and nothing else is supported", address)
	}
	return &Manager{address: address}, nil
}

// Over returns the manager at the other end of a socket pair, of which it takes this end. Each message is a datagram
// (SOCK_SEQPACKET). The watchdog is that of m, which may be nil.
func Over(end *os.File, m *Manager) *Manager {
	return &Manager{pair: end, watchdog: m.Watchdog()}
}

func take(key string) string {
	value := os.Getenv(key)
	_ = os.Unsetenv(key)
	return value
}

// watchdog returns the interval of WATCHDOG_USEC if it is for this process.
func watchdog(usec, pid string) (time.Duration, error) {
	if usec == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil
	}
	n, err := strconv.ParseInt(usec, 10, 64)
	if d := time.Duration(n) * time.Microsecond; err == nil && n > 0 && d.Microseconds() == n {
		return d, nil
	}
	return 0, fmt.Errorf("WATCHDOG_USEC=%s: not a time in microseconds", usec)
}

// Watchdog returns the time without [Alive] after which the manager treats this process as
// dead, or 0 if it does not watch.
func (m *Manager) Watchdog() time.Duration {
	if m == nil {
		return 0
	}
	return m.watchdog
}

// Tell sends states, in one message.
func (m *Manager) Tell(states ...string) error {
	if m == nil {
		return nil
	}
	return m.send([]byte(strings.Join(states, "\n")))
}

// Keep gives fd, which it borrows, to the manager to keep by that name, without a look at it: see
// sd_pid_notify_with_fds(3).
func (m *Manager) Keep(name string, fd *scmrights.FD) error {
	return m.send([]byte("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0"), fd)
}

// Forget makes the manager close the descriptors of that name.
func (m *Manager) Forget(name string) error {
	return m.send([]byte("FDSTOREREMOVE=1\nFDNAME=" + name))
}

// send sends one message, with descriptors.
func (m *Manager) send(b []byte, fds ...*scmrights.FD) error {
	var err error
	switch {
	case m == nil:
		return errors.New("there is no service manager")
	case m.pair != nil:
		err = sendOver(m.pair, b, fds)
	default:
		err = sendTo(m.address, b, fds)
	}
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
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
	return sendOver(f, b, fds)
}

func sendOver(f *os.File, b []byte, fds []*scmrights.FD) error {
	conn, err := scmrights.NewConn(f)
	if err != nil {
		return err
	}
	_ = f.SetWriteDeadline(time.Now().Add(sendTime))
	return conn.Send(b, fds...)
}

// Status is the state that describes the service in one line.
func Status(text string) string {
	return "STATUS=" + strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// Reloading is the state of a service that now begins to read its configuration again; [Ready] ends it. By the time in
// it, the manager of a Type=notify-reload service knows that its signal has come before.
func Reloading() string {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return "RELOADING=1"
	}
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000)
}
