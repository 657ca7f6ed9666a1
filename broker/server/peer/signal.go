package peer

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// ErrNotAllowed refuses a signal to a process that its first user may not signal.
var ErrNotAllowed = errors.New("the process has become another user's")

// Signal sends sig to the process of a pidfd, which it borrows. The process may have chosen the signal, and may have
// executed a set-user-ID program since, so the error is [ErrNotAllowed] if the user of cred could not send it. It is
// [ErrExited] if the process has ended.
func Signal(pidfd *scmrights.FD, cred Credentials, sig unix.Signal) error {
	err := mayKill(cred)
	if Exited(pidfd) {
		return ErrExited
	}
	if err != nil {
		return err
	}
	if cerr := pidfd.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); cerr != nil {
		return cerr
	}
	if err == unix.ESRCH {
		return ErrExited
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// mayKill returns nil if the user of cred may send signals to its process: if that has the
// user as its real or its saved user id (kill(2)).
func mayKill(cred Credentials) error {
	if cred.UID == 0 {
		return nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cred.PID))
	if err != nil {
		return err
	}
	_, line, _ := bytes.Cut(b, []byte("\nUid:"))
	line, _, _ = bytes.Cut(line, []byte("\n"))
	var real, effective, saved uint32
	if _, err := fmt.Sscan(string(line), &real, &effective, &saved); err != nil {
		return err
	}
	if cred.UID != real && cred.UID != saved {
		return ErrNotAllowed
	}
	return nil
}
