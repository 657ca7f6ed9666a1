package main

import (
	"context"
	"errors"
	"os"
	"strconv"
	"time"

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
func chosenStore(flag string) string {
	if flag != "" && flag != storeAuto {
		return flag
	}
	if n, err := strconv.Atoi(os.Getenv("FDSTORE")); err == nil && n > 0 && os.Getenv("NOTIFY_SOCKET") != "" {
		return storeSystemd
	}
	return storeKeeper
}

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
