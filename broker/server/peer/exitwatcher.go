package peer

import (
	"github.com/fdbroker/fdbroker/internal/epoll"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// ExitWatcher reports when processes end. All pidfds share one epoll instance, so a
// process costs no goroutine and no thread. Its methods may be called concurrently.
type ExitWatcher struct{ poller *epoll.Poller }

// NewExitWatcher returns a watcher of no process; the caller must close it.
func NewExitWatcher() (*ExitWatcher, error) {
	p, err := epoll.New("pidfds")
	if err != nil {
		return nil, err
	}
	return &ExitWatcher{p}, nil
}

// Add makes Run report id once the process of pidfd has ended, which may be at once. It
// borrows pidfd; Remove must come before its Close.
func (w *ExitWatcher) Add(id int64, pidfd *scmrights.FD) error {
	return w.poller.Add(pidfd, unix.EPOLLIN|unix.EPOLLONESHOT, uint64(id))
}

// Remove makes Run forget pidfd.
func (w *ExitWatcher) Remove(pidfd *scmrights.FD) { _ = w.poller.Del(pidfd) } // fails only if Add did

// Run calls exited with the ids of processes that have ended, until Close. Exited must not keep ids.
func (w *ExitWatcher) Run(exited func(ids []int64)) {
	var ids []int64
	for w.poller.Wait(func(id uint64, _ uint32) { ids = append(ids, int64(id)) }) == nil {
		exited(ids)
		ids = ids[:0]
	}
}

// Close ends Run. Closing again does nothing.
func (w *ExitWatcher) Close() { w.poller.Close() }
