package conn

import (
	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// listen makes ln the socket on which connections arrive.
func (l *Loop) listen(ln *scmrights.FD) error {
	guarded := false
	_ = ln.Control(func(fd uintptr) {
		_ = unix.SetNonblock(int(fd), true) // a blocking accept would stop everybody
		v, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS)
		guarded = err == nil && v == 0
	})
	events := uint32(unix.EPOLLIN)
	if !l.paused.IsZero() {
		events = 0
	}
	if err := l.watch(ln, unix.EPOLL_CTL_ADD, events); err != nil {
		return err
	}
	l.listener, l.guarded = ln, guarded
	return nil
}

// Replace makes Serve accept on ln, which it takes, instead of the listener that it has, once it has accepted the
// connections that wait there. It may be called by any goroutine.
func (l *Loop) Replace(ln *scmrights.FD) {
	if earlier := l.next.Swap(ln); earlier != nil {
		_ = earlier.Close()
	}
	l.Post(l.replace)
}

func (l *Loop) replace() {
	ln, old := l.next.Swap(nil), l.listener
	if ln == nil {
		return
	}
	if l.stopping || l.listen(ln) != nil {
		_ = ln.Close()
		return
	}
	for {
		raw, number, err := scmrights.Accept(old)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			break
		}
		l.open(raw, int32(number))
	}
	_ = l.watch(old, unix.EPOLL_CTL_DEL, 0)
	_ = old.Close() // the caller of Serve may close it again
}
