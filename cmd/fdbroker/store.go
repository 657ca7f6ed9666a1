//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"strconv"

	"github.com/fdbroker/fdbroker/broker/keeper"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// What --store can be.
const (
	storeAuto    = "auto"
	storeSystemd = "systemd"
	storeKeeper  = "keeper"
	storeNone    = "none"
)

// chosenStore returns what auto means: systemd's store where it offers one.
func chosenStore(flag string, getenv func(string) string) string {
	if flag != "" && flag != storeAuto {
		return flag
	}
	if n, err := strconv.Atoi(getenv("FDSTORE")); err == nil && n > 0 && getenv("NOTIFY_SOCKET") != "" {
		return storeSystemd
	}
	return storeKeeper
}

// store is the broker's store: the service manager, or the keeper, which speaks the same
// language.
type store struct{ manager *notify.Manager }

var _ server.Store = store{}

func (s store) Keep(name string, fd *scmrights.FD) error { return s.manager.Store(name, fd) }
func (s store) Forget(name string) error                 { return s.manager.Unstore(name) }

// link is the broker's end of the pair that it has with its keeper; nil: it has none.
type link struct {
	end *os.File // the manager's, see notify.Over
}

// dupOf returns a descriptor of what f is; the caller must close it.
func dupOf(f *os.File) (fd *scmrights.FD, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := rc.Control(func(n uintptr) {
		var dup int
		if dup, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			fd = scmrights.NewFD(dup)
		}
	})
	return fd, errors.Join(cerr, os.NewSyscallError("fcntl", err))
}

// await calls lost if the keeper ends before ctx.
func (l *link) await(ctx context.Context, lost func()) {
	if l == nil {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = l.end.SetReadDeadline(longAgo) })()
	if _, err := l.end.Read(make([]byte, 1)); err != nil && ctx.Err() == nil {
		lost()
	}
}

// passed returns what the broker that goes on in this process has to be passed. Under a
// keeper that lives it needs the link too.
func (l *link) passed(descriptors []server.Passed) (passed []launch.Passed, env []string, err error) {
	for _, d := range descriptors {
		passed = append(passed, launch.Passed{Name: d.Name, FD: d.FD})
	}
	if l != nil {
		fd, err := dupOf(l.end)
		if err != nil {
			return nil, nil, err
		}
		passed = append(passed, launch.Passed{Name: keeper.StoreName, FD: fd})
		env = append(env, storeEnvOf(len(passed)-1, fd))
	}
	return passed, env, nil
}
