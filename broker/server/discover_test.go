package server_test

import (
	"os"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// spawnWith starts a worker that has fd open.
func (b *broker) spawnWith(t testing.TB, fd *scmrights.FD) *worker {
	t.Helper()
	held, err := fd.Dup()
	if err != nil {
		t.Fatal(err)
	}
	f, err := held.File("held")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := fdtest.Helper(t, "worker", b.path)
	cmd.ExtraFiles = []*os.File{f}
	return startWorker(t, cmd)
}

// A process that has the socket open when it is put is a holder from then on.
func TestDiscoveredHolder(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	c := b.client(t)
	fd, _ := listening(t)
	w := b.spawnWith(t, fd)
	reply, err := c.put(protocol.PutParameters{Name: "web", PID: w.pid(), DrainSignal: "TERM"}, fd)
	if err != nil {
		t.Fatal(err)
	}
	if reply.Listener.Holders != 1 {
		t.Errorf("got %+v", reply.Listener)
	}
	h := c.list().Holders
	if len(h) != 1 || h[0].PID != w.pid() || h[0].UID != uint32(os.Getuid()) || h[0].Connection || h[0].State != protocol.StateActive {
		t.Errorf("got %+v", h)
	}
	if err := c.call(protocol.MethodDrain, protocol.DrainParameters{Names: []string{"web"}}, nil); err != nil {
		t.Error(err)
	}
	if err := w.cmd.Wait(); err == nil || err.Error() != "signal: terminated" {
		t.Errorf("the process ended with %v", err)
	}
	b.held(t, "web", 0, 0)

	// A process without the socket is no holder.
	stranger := b.spawn(t)
	other, _ := listening(t)
	if _, err := c.put(protocol.PutParameters{Name: "other", PID: stranger.pid()}, other); err != nil {
		t.Fatal(err)
	}
	b.held(t, "other", 0, 0)
	if len(b.logs.lines("does not show it as a holder", `"other"`)) != 1 {
		t.Error("nothing says so")
	}
}

// If a process with a discovered grant asks for the listener, it is one holder and not two, and takes its
// own place.
func TestDiscoveredHolderAsks(t *testing.T) {
	fdtest.CheckLeaks(t)
	for name, c := range map[string]struct {
		call
		connection bool
	}{
		"for its connection": {getMore(protocol.GetParameters{Names: []string{"web"}}), true},
		"for its process":    {get("web"), false},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, server.Config{})
			fd, _ := listening(t)
			w := b.spawnWith(t, fd)
			if _, err := b.client(t).put(protocol.PutParameters{Name: "web", Options: "max=1", PID: w.pid()}, fd); err != nil {
				t.Fatal(err)
			}
			b.held(t, "web", 1, 0)
			if err := w.call(c.call); err != nil {
				t.Fatal(err)
			}
			b.held(t, "web", 1, 0)
			if h := b.client(t).list().Holders; len(h) != 1 || h[0].PID != w.pid() || h[0].Connection != c.connection {
				t.Errorf("got %+v", h)
			}
			w.kill()
			b.held(t, "web", 0, 0)
		})
	}
}
