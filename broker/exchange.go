//go:build linux

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
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

// maxPath is how long the path of a Unix socket can be (unix(7)).
const maxPath = 107

// connect connects to the control socket: the first that exists, where there is
// more than one place for it.
func connect(ctx context.Context, path string) (*scmrights.Stream, error) {
	if path == "" {
		path = os.Getenv(protocol.SocketEnv)
	}
	paths := []string{path}
	if path == "" {
		paths = protocol.DialPaths(os.Geteuid(), os.Getenv)
	}
	var errs []error
	for _, p := range paths {
		s, err := scmrights.Dial(ctx, p)
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, unix.ECONNREFUSED) && isOther(p):
			return nil, fmt.Errorf("connect to the control socket %s: it is not a socket", p)
		case len(p) > maxPath:
			return nil, fmt.Errorf("connect to the control socket %s: a Unix socket's path has at most %d bytes, and this one %d: %w", p, maxPath, len(p), unix.EINVAL)
		case ctx.Err() == nil && !isAbsence(err):
			return nil, fmt.Errorf("connect to the control socket %s: %w", p, cause(err))
		}
		errs = append(errs, err)
		if !errors.Is(err, fs.ErrNotExist) {
			break // one that is down or closed to us is not replaced by another
		}
	}
	return nil, &NoBrokerError{Paths: slices.Clone(paths[:len(errs)]), Errs: errs}
}

// isOther reports whether path leads to something else than a socket.
func isOther(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeSocket == 0
}

// isAbsence reports whether err of connecting to a path says something about who
// is there, rather than about the path or this process.
func isAbsence(err error) bool {
	_, ok := errors.AsType[*os.PathError](err)
	return ok && !errors.Is(err, unix.EINVAL) // a path that is too long, or empty
}

// retry calls f until it succeeds, fails for good, or ctx is done: as long as what
// it misses is a broker.
func retry(ctx context.Context, f func() error) error {
	var missed error
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		err := f()
		if !errors.Is(err, ErrNoBroker) && !errors.Is(err, ErrLost) {
			return err
		}
		if missed == nil || ctx.Err() == nil { // else it only says that time is up
			missed = err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), missed)
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
	conn, err := protocol.NewConn(stream, protocol.MaxReply, protocol.MaxNamesInCall)
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

// call makes a call and returns the parameters of its first reply. The caller must
// close the descriptors. When ctx ends first, the connection is of no more use.
func (x *exchange) call(ctx context.Context, c protocol.Call, parameters any) (json.RawMessage, []*scmrights.FD, error) {
	b, err := protocol.AppendCall(make([]byte, 0, 256), c, parameters)
	if err != nil {
		return nil, nil, err
	}
	m, err := x.ask(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	p, err := parametersOf(m)
	return p, m.FDs, err
}

// parametersOf returns the parameters of a reply, or closes its descriptors and
// returns the error that it is.
func parametersOf(m protocol.Message) (json.RawMessage, error) {
	r, err := protocol.DecodeReply(m.Bytes)
	if err == nil {
		err = r.Err
	}
	if err != nil {
		scmrights.CloseAll(m.FDs)
		return nil, err
	}
	return r.Parameters, nil
}

// ask sends an encoded call and waits for its first reply. The caller must close
// the descriptors. When ctx ends first, the connection is of no more use.
func (x *exchange) ask(ctx context.Context, call []byte) (protocol.Message, error) {
	return x.within(ctx, func() (protocol.Message, error) { return x.roundTrip(call) })
}

// next waits for another reply to the same call; see ask.
func (x *exchange) next(ctx context.Context) (protocol.Message, error) {
	return x.within(ctx, func() (protocol.Message, error) {
		m, err := x.conn.Receive()
		if err != nil {
			err = lost(err)
		}
		return m, err
	})
}

// within calls f, and interrupts it when ctx ends.
func (x *exchange) within(ctx context.Context, f func() (protocol.Message, error)) (protocol.Message, error) {
	if ctx.Done() == nil {
		return f()
	}
	stop := context.AfterFunc(ctx, x.stream.Interrupt)
	m, err := f()
	// Not ctx.Err: what counts is whether the connection is, or is about to be,
	// interrupted, also where the reply had come before that.
	if !stop() {
		scmrights.CloseAll(m.FDs)
		return protocol.Message{}, ctx.Err()
	}
	return m, err
}

// roundTrip sends an encoded call with descriptors, which it borrows, and waits for
// its first reply.
func (x *exchange) roundTrip(call []byte, fds ...*scmrights.FD) (protocol.Message, error) {
	// A broker that turns this client away has said why before it closed the
	// connection: a failed send is the answer only where there is no other.
	serr := x.conn.Send(call, fds...)
	m, err := x.conn.Receive()
	if err != nil {
		if serr != nil {
			err = serr
		}
		return protocol.Message{}, lost(err)
	}
	return m, nil
}

// decode decodes the parameters of a reply into v.
func decode(raw json.RawMessage, v any) error {
	err := protocol.DecodeParameters(raw, v)
	if invalid, ok := errors.AsType[*protocol.InvalidParameterError](err); ok {
		return malformedf("reply: %s is of another type", invalid.Parameter)
	}
	return err
}

func malformedf(format string, args ...any) error {
	return &protocol.MalformedError{Reason: fmt.Sprintf(format, args...)}
}

// lost marks the errors that mean that the broker has gone.
func lost(err error) error {
	if errors.Is(err, io.EOF) || unseen(err) {
		return fmt.Errorf("%w (%w)", ErrLost, err)
	}
	return err
}

// unseen reports whether err means that the broker was gone before it could have
// read the call: sending it failed, or it was among what was never read.
func unseen(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) }
