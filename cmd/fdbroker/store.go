package main

import (
	"context"
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/fdbroker/fdbroker/broker/keeper"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// The values of --store.
const (
	storeAuto    = "auto"
	storeSystemd = "systemd"
	storeKeeper  = "keeper"
	storeNone    = "none"
)

// chosenStore returns flag, or for auto systemd's store if there is one, else a keeper.
func chosenStore(flag string, getenv func(string) string) string {
	if flag != "" && flag != storeAuto {
		return flag
	}
	if n, err := strconv.Atoi(getenv("FDSTORE")); err == nil && n > 0 && getenv("NOTIFY_SOCKET") != "" {
		return storeSystemd
	}
	return storeKeeper
}

// store is the broker's store: the service manager, or the keeper, which speaks its protocol.
type store struct{ manager *notify.Manager }

var _ server.Store = store{}

func (s store) Keep(name string, fd *scmrights.FD) error { return s.manager.Store(name, fd) }
func (s store) Forget(name string) error                 { return s.manager.Unstore(name) }

// link is the broker's end of the socket pair with its keeper; nil: there is no keeper.
type link struct {
	end *os.File // belongs to the manager, see notify.Over
}

// dupOf returns a duplicate of f's descriptor; the caller must close it.
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
	defer context.AfterFunc(ctx, func() { _ = l.end.SetReadDeadline(time.Unix(1, 0)) })()
	if _, err := l.end.Read(make([]byte, 1)); err != nil && ctx.Err() == nil {
		lost()
	}
}

// passed returns the descriptors for the next program in this process. They include, if
// the keeper lives, the link. The variables say that they are for it.
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
		var st unix.Stat_t
		_ = fd.Control(func(n uintptr) { _ = unix.Fstat(int(n), &st) })
		env = append(env, activation.StoreEnv+"="+activation.Store(len(passed)-1, st.Ino))
	}
	return passed, env, nil
}
