//go:build linux

// Package plainget makes the plain form of "fdclient get" quick: names, --socket and a
// command, and nothing that has to be replaced in that. Importing it is what does it.
//
// Go initializes packages in the order of their imports, and among those that are ready
// in that of their paths (The Go Programming Language Specification, "Package
// initialization"). This one imports little. So it comes before net, pflag and zerolog,
// which fdclient needs for its other verbs, and whose initialization would be a good part
// of what a get takes. As a rule it needs no thread besides the main one, either: see
// [launch.Program.ExecAlone].
//
// Whatever is not plain, or finds no broker, is left to the verb get as if nothing had been
// tried. What has come to nothing since the broker was asked is not tried again, but for an
// answer that was lost with the broker: see [Failure].
package plainget

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// failure is set once, before main begins.
var failure error

// Failure returns why a plain get has failed once the broker was asked:
// [launch.ExitCode] has the exit status. It is nil where nothing has been tried.
func Failure() error { return failure }

// An init, as only that is early enough.
func init() {
	if c, ok := parse(os.Args); ok {
		failure = c.get()
	}
}

// get becomes the command. It returns nil where the verb get is to try, and to say what
// is wrong.
//
// Nothing here is deferred: what a deferred call refers to would have to be allocated, and
// the first thing of each size costs a page of memory. So does a larger stack, hence no
// call is made from deeper down than it must.
func (c *call) get() error {
	config := launch.Config{Command: c.command, Environ: os.Environ()}
	for _, name := range c.names {
		config.Sockets = append(config.Sockets, launch.Socket{Name: name})
	}
	alone := launch.Alone(config)
	stream, err := scmrights.Dial(context.Background(), c.path())
	if err != nil {
		return nil
	}
	var program *launch.Program
	m, failed := c.ask(stream, func() { program, err = launch.Prepare(config) })
	_ = stream.Close() // now, as it stands where sockets go
	if m.Bytes == nil {
		return failed
	}
	_, fds, failed := m.Handed(c.names)
	switch {
	case failed != nil:
		return failed
	case err != nil:
	case alone:
		program.Give(fds)
		err = program.ExecAlone()
	default:
		program.Give(fds)
		err = program.Exec()
	}
	scmrights.CloseAll(fds)
	return err
}

// ask returns the broker's reply, or why there is none. Without either the broker has gone,
// and another one may be asked: a process has one grant, of all it asks for. It calls
// meanwhile while the broker is at it.
func (c *call) ask(stream *scmrights.Stream, meanwhile func()) (m protocol.Message, failed error) {
	conn, err := protocol.NewConn(stream, protocol.MaxReply, protocol.MaxNamesInCall)
	if err != nil {
		return m, nil
	}
	p := protocol.GetParameters{Names: c.names, DrainSignal: "TERM", Generation: protocol.GenerationOf(os.Getenv)}
	if err := conn.Send(protocol.AppendGetCall(make([]byte, 0, 128), p, false)); err != nil {
		return m, nil // why it was turned away the verb will hear
	}
	meanwhile()
	m, err = conn.Receive()
	conn.Discard() // nothing comes behind it
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		err = nil
	}
	return m, err
}
