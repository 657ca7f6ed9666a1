//go:build linux

// Package plainget makes the plain form of "fdclient get" quick: names, --socket and a
// command, and nothing that has to be replaced in that. Importing it is what does it.
//
// Go initializes packages in the order of their imports, and among those that are ready
// in that of their paths (The Go Programming Language Specification, "Package
// initialization"). This one imports little. So it comes before net, pflag and zerolog,
// which fdclient needs for its other verbs, and whose initialization would be a good part
// of what a get takes. It also needs no thread besides the main one: see
// [launch.Program.ExecAlone].
//
// Whatever is not plain, or does not work, is left to the verb get as if nothing had been
// tried, but for two things that cannot be had again: see [Failure].
package plainget

import (
	"context"
	"os"

	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// failure is set once, before main begins.
var failure error

// Failure returns why the broker has refused a plain get, or why its command could not
// be executed once it had not, in which case [launch.ExitCode] has the exit status. It
// is nil where nothing has been tried, and where nothing came of it.
func Failure() error { return failure }

// An init, as only that is early enough.
func init() {
	c, ok := parse(os.Args)
	if environ := os.Environ(); ok && isPlain(environ) {
		failure = c.get(environ)
	}
}

// get becomes the command. It returns nil where the verb get is to try, and to say what
// is wrong.
//
// Nothing here is deferred: what a deferred call refers to would have to be allocated, and
// the first thing of each size costs a page of memory.
func (c *call) get(environ []string) error {
	config := launch.Config{Command: c.command, Environ: environ}
	for _, name := range c.names {
		config.Sockets = append(config.Sockets, launch.Socket{Name: name})
	}
	if !launch.Vacant(config) {
		return nil
	}
	stream, err := scmrights.Dial(context.Background(), c.path())
	if err != nil {
		return nil
	}
	var program *launch.Program
	fds, refused := c.ask(stream, func() { program, err = launch.Prepare(config) })
	_ = stream.Close() // now, as it stands where sockets go
	if fds == nil {
		return refused
	}
	if err == nil {
		err = program.ExecAlone(fds)
	}
	scmrights.CloseAll(fds)
	return err
}

// ask returns the sockets, which the caller must close, or why the broker refuses them.
// Without either there was no answer, or none that is plain. It calls meanwhile while the
// broker is at it.
func (c *call) ask(stream *scmrights.Stream, meanwhile func()) (fds []*scmrights.FD, refused error) {
	conn, err := protocol.NewConn(stream, protocol.MaxReply, protocol.MaxNamesInCall)
	if err != nil {
		return nil, nil
	}
	p := protocol.GetParameters{Names: c.names, DrainSignal: "TERM"}
	if err := conn.Send(protocol.AppendGetCall(make([]byte, 0, 256), p, false)); err != nil {
		return nil, nil
	}
	meanwhile()
	m, ok := conn.Next()
	for ; !ok; m, ok = conn.Next() {
		if err := conn.Fill(); err != nil {
			conn.Discard()
			return nil, nil
		}
	}
	conn.Discard() // nothing comes behind it
	if reply, _, ok := protocol.DecodeGetReply(m.Bytes); ok {
		if fds, err := protocol.Pair(c.names, reply.Sockets, m.FDs); err == nil {
			return fds, nil
		}
	}
	scmrights.CloseAll(m.FDs)
	reply, err := protocol.DecodeReply(m.Bytes)
	if err != nil {
		return nil, nil
	}
	return nil, reply.Err
}
