//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/supervisor"
	"golang.org/x/sys/unix"
)

// progress is the pipe on which get reports to 'fdclient run' how far it has come.
// The nil progress is none.
type progress struct {
	fd   int
	told string
}

// inheritedProgress returns the progress that the environment names.
func inheritedProgress() *progress {
	fd, ok := inheritedPipe(supervisor.StatusEnv)
	if !ok {
		return nil
	}
	return &progress{fd: fd}
}

// reports reports whether 'fdclient run' has started this get, and says what it waits for.
func reports() bool {
	_, is := os.LookupEnv(supervisor.StatusEnv)
	return is
}

// inheritedPipe returns the pipe that the environment names, and removes it from there:
// neither the variable nor the pipe is for the command.
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
		return -1, false // of somebody else's
	}
	unix.CloseOnExec(fd)
	return fd, true
}

// awaitStart waits, in a get that was started ahead, until it is needed, and reports
// whether it ever is.
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

// tell reports that this step is reached, once. Nobody may listen any more.
func (p *progress) tell(step, reason string) {
	if p == nil || p.told == step {
		return
	}
	p.told = step
	line := strings.TrimSpace(step + " " + strings.ReplaceAll(reason, "\n", "; "))
	_, _ = unix.Write(p.fd, []byte(line+"\n"))
}

// failed reports why get has failed, and with which exit status it will end.
func (p *progress) failed(err error, status int) {
	if errors.Is(err, broker.ErrReplaced) {
		p.tell(supervisor.ReportReplaced, "")
		return
	}
	p.tell(supervisor.ReportFailed, fmt.Sprint(status, " ", err))
}

// How often get looks again for a broker where there is none.
const (
	lookMin = 10 * time.Millisecond
	lookMax = 250 * time.Millisecond
)

// get is client.Get, which it asks without waiting first to report what is missing.
func (p *progress) get(ctx context.Context, client *broker.Client, o broker.GetOptions, names []string) ([]broker.Socket, error) {
	if p == nil || !o.Wait {
		return client.Get(ctx, o, names...)
	}
	at := o
	at.Wait = false
	for wait := lookMin; ; wait = min(2*wait, lookMax) {
		sockets, err := client.Get(ctx, at, names...)
		switch {
		case errors.Is(err, broker.ErrNoBroker), errors.Is(err, broker.ErrLost):
			p.tell(supervisor.ReportWaiting, err.Error())
			select {
			case <-time.After(wait):
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
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
