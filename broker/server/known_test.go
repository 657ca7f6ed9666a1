//go:build linux

package server_test

import (
	"os"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// A process that accepts on the socket already is its holder from then on.
func TestPutWithHolder(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	c := b.client(t)
	fd, _ := listening(t)
	holder := fdtest.Helper(t, "worker", b.path)
	held, err := fd.Dup()
	if err != nil {
		t.Fatal(err)
	}
	f, err := held.File("held")
	if err != nil {
		t.Fatal(err)
	}
	holder.ExtraFiles = []*os.File{f}
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	reply, err := c.put(protocol.PutParameters{Name: "web", PID: holder.Process.Pid}, fd)
	if err != nil {
		t.Fatal(err)
	}
	if reply.Listener.Holders != 1 {
		t.Errorf("got %+v", reply.Listener)
	}
	h := c.list().Holders
	if len(h) != 1 || h[0].PID != holder.Process.Pid || h[0].UID != uint32(os.Getuid()) || h[0].Connection || h[0].State != protocol.StateActive {
		t.Errorf("got %+v", h)
	}
	_ = stdin.Close()
	_ = holder.Wait()
	b.held(t, "web", 0, 0)

	// One that has not got it is not.
	stranger := b.spawn(t)
	other, _ := listening(t)
	if _, err := c.put(protocol.PutParameters{Name: "other", PID: stranger.pid()}, other); err != nil {
		t.Fatal(err)
	}
	b.held(t, "other", 0, 0)
	if len(b.logs.lines("not known as a holder", `"other"`)) != 1 {
		t.Error("nothing says so")
	}
}
