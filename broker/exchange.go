//go:build linux

package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/fdbroker/fdbroker/internal/backoff"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// maxPath is how long the path of a Unix socket can be (unix(7)).
const maxPath = 107

// connect connects to the control socket: to the first that exists, if there is more than one place for it. It returns
// the path of that; its errors name the path.
func connect(ctx context.Context, path string) (*scmrights.Stream, string, error) {
	paths := []string{path}
	if path == "" {
		paths = protocol.DialPaths(os.Geteuid(), os.Getenv)
	}
	var errs []error
	for _, p := range paths {
		s, err := scmrights.Dial(ctx, p)
		_, ofPath := errors.AsType[*os.PathError](err)
		switch {
		case err == nil:
			return s, p, nil
		case errors.Is(err, unix.ECONNREFUSED) && isOther(p):
			return nil, "", fmt.Errorf("connect to the control socket %s: it is not a socket", p)
		case len(p) > maxPath:
			return nil, "", fmt.Errorf("connect to the control socket %s: a Unix socket's path has at most %d bytes, and this one %d: %w", p, maxPath, len(p), unix.EINVAL)
		case ctx.Err() == nil && (!ofPath || errors.Is(err, unix.EINVAL)): // of this process, or of an empty path
			return nil, "", fmt.Errorf("connect to the control socket %s: %w", p, cause(err))
		}
		errs = append(errs, err)
		if !errors.Is(err, fs.ErrNotExist) {
			break // a socket that is down, or not for this user, is still the one to use
		}
	}
	return nil, "", &NoBrokerError{Paths: paths[:len(errs)], Errs: errs}
}

// isOther reports whether path leads to a file that is not a socket.
func isOther(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeSocket == 0
}

// isAway reports whether err means that there is no broker for now.
func isAway(err error) bool { return errors.Is(err, ErrNoBroker) || errors.Is(err, ErrLost) }

// retry calls f. If it waits it does so until f succeeds, fails for another reason than a
// missing broker, or ctx is done. No event says that a broker listens.
func retry(ctx context.Context, waits bool, f func() error) error {
	var missed error
	for delays := new(backoff.Backoff); ; {
		err := f()
		if !waits || !isAway(err) {
			return err
		}
		if missed == nil || ctx.Err() == nil { // else it only says that time is up
			missed = err
		}
		if delays.Wait(ctx) != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), missed)
		}
	}
}

// exchange is one connection to a broker, used by one call at a time.
type exchange struct {
	path   string // of the control socket
	stream *scmrights.Stream
	conn   *protocol.Conn
	grant  int64 // of the last get
}

func newExchange(ctx context.Context, path string) (*exchange, error) {
	stream, at, err := connect(ctx, path)
	if err != nil {
		return nil, err
	}
	return &exchange{path: at, stream: stream, conn: protocol.NewConn(stream, protocol.MaxReply, protocol.MaxNamesInCall)}, nil
}

// close ends the connection, and with it a grant that lasts as long.
func (x *exchange) close() error {
	x.conn.Discard()
	return x.stream.Close()
}

// call makes a call with descriptors, which it borrows, and decodes the parameters of its
// reply into reply, unless that is nil. If ctx ends first, the connection is of no more use.
func (x *exchange) call(ctx context.Context, method string, parameters, reply any, fds ...*scmrights.FD) error {
	b, err := protocol.AppendCall(make([]byte, 0, 256), protocol.Call{Method: method}, parameters)
	if err != nil {
		return err
	}
	return x.receive(ctx, b, reply, fds...)
}

// receive is ask for a reply without descriptors, whose parameters it decodes into reply, unless that is nil.
func (x *exchange) receive(ctx context.Context, call []byte, reply any, fds ...*scmrights.FD) error {
	m, err := x.ask(ctx, call, fds...)
	if err != nil {
		return err
	}
	scmrights.CloseAll(m.FDs)
	if err = protocol.ParseReply(m.Bytes, reply); err == nil && len(m.FDs) > 0 {
		err = malformedf("reply: %d descriptors that nobody asked for", len(m.FDs))
	}
	return err
}

// ask sends an encoded call with descriptors, which it borrows, and waits for its first reply; without a call, for
// another reply to the one before. The caller must close the reply's descriptors. If ctx ends first, the connection is
// of no more use.
func (x *exchange) ask(ctx context.Context, call []byte, fds ...*scmrights.FD) (protocol.Message, error) {
	stop := func() bool { return true }
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, x.stream.Interrupt)
	}
	// A broker that turns this client away says why before it closes the connection. So
	// the error of a failed send counts only if there is no reply.
	serr := x.conn.Send(call, fds...)
	m, err := x.conn.Receive()
	if err != nil && serr != nil {
		err = serr
	}
	// Not ctx.Err: it matters whether the connection is interrupted, now or in a moment, even if the reply has come.
	if !stop() {
		scmrights.CloseAll(m.FDs)
		return protocol.Message{}, ctx.Err()
	}
	return m, lost(err)
}

// get calls Get. The caller must close the sockets.
func (x *exchange) get(ctx context.Context, more bool, p protocol.GetParameters) ([]Socket, error) {
	x.conn.Admit(max(len(p.Names), protocol.MaxNamesInCall))
	m, err := x.ask(ctx, protocol.AppendGetCall(make([]byte, 0, 128), p, more))
	if err != nil {
		return nil, err
	}
	reply, fds, err := m.Handed(p.Names)
	if err != nil {
		return nil, err
	}
	x.grant = reply.Grant
	sockets := make([]Socket, len(fds))
	for i, g := range reply.Sockets {
		sockets[i] = Socket{Name: g.Name, Network: g.Network, Address: g.Address, FD: fds[i]}
	}
	return sockets, nil
}

func malformedf(format string, args ...any) error {
	return &protocol.MalformedError{Reason: fmt.Sprintf(format, args...)}
}

// lost marks an error that means that the broker has gone. It may be given nil.
func lost(err error) error {
	if errors.Is(err, io.EOF) || unseen(err) {
		return fmt.Errorf("%w (%w)", ErrLost, err)
	}
	return err
}

// unseen reports whether err means that the broker was gone before it could read the call:
// sending failed, or the call was among the bytes that were never read.
func unseen(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) }
