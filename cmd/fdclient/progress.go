package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/supervisor"
	"golang.org/x/sys/unix"
)

// progress is the pipe on which a get tells the 'fdclient run' that started it how far it
// has come. The nil progress is that of a get that run has not started.
type progress struct {
	fd   int
	last string // the last step that run knows
}

// inheritedProgress returns the progress that the environment names.
func inheritedProgress() *progress {
	fd, ok := inheritedPipe(supervisor.StatusEnv)
	if !ok {
		return nil
	}
	return &progress{fd: fd}
}

// inheritedPipe returns the pipe that a variable names. It removes the variable and makes
// the pipe close-on-exec, because the command is to have neither.
func inheritedPipe(env string) (fd int, ok bool) {
	text, ok := os.LookupEnv(env)
	if !ok {
		return -1, false
	}
	_ = os.Unsetenv(env)
	fd, err := strconv.Atoi(text)
	if err != nil {
		return -1, false
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return -1, false // the variable is another process's
	}
	unix.CloseOnExec(fd)
	return fd, true
}

// awaitStart waits until run needs this get, if run has started it ahead. It is false if run ends before that.
func (p *progress) awaitStart() bool {
	if p == nil {
		return true
	}
	fd, ok := inheritedPipe(supervisor.StartEnv)
	if !ok {
		return true
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Read(fd, make([]byte, 1))
		if err != unix.EINTR {
			return n == 1
		}
	}
}

// tell tells run that this step is reached, once. It is false if there is no run that could read it.
func (p *progress) tell(step, reason string) bool {
	if p == nil {
		return false
	}
	if p.last == step {
		return true
	}
	p.last = step
	line := strings.TrimSpace(step + " " + strings.ReplaceAll(reason, "\n", "; "))
	_, err := unix.Write(p.fd, []byte(line+"\n"))
	return err == nil
}

// failed tells run why get has failed, and with which exit status it will exit. Run prints or logs the reason. It is
// false if there is no run that could.
func (p *progress) failed(err error, status int) bool {
	if errors.Is(err, broker.ErrReplaced) {
		return p.tell(supervisor.ReportReplaced, "")
	}
	return p.tell(supervisor.ReportFailed, fmt.Sprint(status, " ", err))
}

// get is client.Get. It first asks without waiting, to tell run why it waits.
func (p *progress) get(ctx context.Context, client *broker.Client, o broker.GetOptions, names []string) ([]broker.Socket, error) {
	if p == nil || !o.Wait {
		return client.Get(ctx, o, names...)
	}
	now := o
	now.Wait = false
	for wait := retryMin; ; {
		sockets, err := client.Get(ctx, now, names...)
		switch {
		case errors.Is(err, broker.ErrNoBroker), errors.Is(err, broker.ErrLost):
			p.tell(supervisor.ReportWaiting, err.Error())
			if err := pause(ctx, &wait); err != nil {
				return nil, err
			}
			continue
		case errors.Is(err, broker.ErrUnknownName):
			p.tell(supervisor.ReportWaiting, err.Error())
		case errors.Is(err, broker.ErrFull):
			p.tell(supervisor.ReportStandby, "")
		default:
			return sockets, err
		}
		return client.Get(ctx, o, names...)
	}
}
