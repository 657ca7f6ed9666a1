//go:build linux

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// How often a caller that waits for a broker looks again whether there is one.
// No event tells: what counts is not that the path appears, but that somebody
// listens.
const (
	retryMin = 10 * time.Millisecond
	retryMax = 250 * time.Millisecond
)

// connect connects to the first control socket at which a broker answers.
func connect(ctx context.Context, path string) (*scmrights.Stream, error) {
	paths := []string{path}
	if path == "" {
		paths = protocol.DialPaths(os.Getuid(), os.Getenv)
	}
	failed := NoBrokerError{Paths: paths}
	for _, p := range paths {
		s, err := scmrights.Dial(ctx, p)
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		failed.Errs = append(failed.Errs, err)
	}
	return nil, &failed
}

// retry calls f until it succeeds, fails for good, or ctx is done: as long as what
// it misses is a broker.
func retry(ctx context.Context, f func() error) error {
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		err := f()
		if !errors.Is(err, ErrNoBroker) && !errors.Is(err, ErrLost) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// exchange is one connection to a broker, used by one call at a time.
type exchange struct {
	stream *scmrights.Stream
	conn   *protocol.Conn
}

func newExchange(ctx context.Context, path string) (*exchange, error) {
	stream, err := connect(ctx, path)
	if err != nil {
		return nil, err
	}
	conn, err := protocol.NewConn(stream, protocol.MaxReply, scmrights.MaxFDs)
	if err != nil {
		_ = stream.Close()
		return nil, err
	}
	return &exchange{stream, conn}, nil
}

// close ends the connection, and with it a grant that lasts as long.
func (x *exchange) close() error {
	x.conn.Discard()
	return x.stream.Close()
}

// call makes a call and waits for its first reply. The caller must close the
// descriptors. When ctx ends first, the connection is of no more use.
func (x *exchange) call(ctx context.Context, c protocol.Call, parameters any) (json.RawMessage, []*scmrights.FD, error) {
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, x.stream.Interrupt)()
	}
	p, fds, err := x.roundTrip(c, parameters)
	if err != nil && ctx.Err() != nil {
		scmrights.CloseAll(fds)
		return nil, nil, ctx.Err()
	}
	return p, fds, err
}

func (x *exchange) roundTrip(c protocol.Call, parameters any) (json.RawMessage, []*scmrights.FD, error) {
	b, err := protocol.AppendCall(make([]byte, 0, 256), c, parameters)
	if err != nil {
		return nil, nil, err
	}
	// A broker that turns this client away has said why before it closed the
	// connection: a failed send is the answer only where there is no other.
	serr := x.conn.Send(b)
	m, err := x.receive()
	if err != nil {
		if serr != nil {
			err = serr
		}
		return nil, nil, lost(err)
	}
	r, err := protocol.DecodeReply(m.Bytes)
	if err == nil {
		err = r.Err
	}
	if err != nil {
		scmrights.CloseAll(m.FDs)
		return nil, nil, err
	}
	return r.Parameters, m.FDs, nil
}

func (x *exchange) receive() (protocol.Message, error) {
	for {
		if m, ok := x.conn.Next(); ok {
			return m, nil
		}
		if err := x.conn.Fill(); err != nil {
			return protocol.Message{}, err
		}
	}
}

// lost marks the errors that mean that the broker has gone.
func lost(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("%w (%w)", ErrLost, err)
	}
	return err
}
