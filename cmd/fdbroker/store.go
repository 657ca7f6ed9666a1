package main

import (
	"context"
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/scmrights"
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

// dupOf returns a duplicate of f's descriptor; the caller must close it.
func dupOf(f *os.File) (fd *scmrights.FD, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := rc.Control(func(n uintptr) { fd, err = scmrights.NewFD(int(n)).Dup() })
	return fd, errors.Join(cerr, err)
}

// awaitKeeper reports whether the keeper at the other end of the socket pair ends before ctx; nil: there is none.
func awaitKeeper(ctx context.Context, end *os.File) (lost bool) {
	if end == nil {
		return false
	}
	defer context.AfterFunc(ctx, func() { _ = end.SetReadDeadline(time.Unix(1, 0)) })()
	_, err := end.Read(make([]byte, 1))
	return err != nil && ctx.Err() == nil
}
