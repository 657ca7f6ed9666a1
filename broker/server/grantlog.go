package server

import (
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/internal/procfs"
)

const (
	grantLinesMost = 100         // in a second, about grants, unless the log is verbose
	grantLogQueue  = 1000        // lines whose commands are still to be read
	grantLogWait   = time.Second // for the last of them when the broker is stopping
)

// grantLog logs what becomes of grants, with the commands of their processes. Reading a command may block as long as
// the process likes, so a goroutine does that, which runs only while there is something to log.
type grantLog struct {
	log zerolog.Logger

	mu    sync.Mutex
	queue []registry.Event
	done  chan struct{} // closed once the goroutine has ended; nil if none runs
}

// grantEvents returns how many events of grants a second log takes; a negative number: all.
func grantEvents(log zerolog.Logger) int {
	switch { // the level of a silent log says nothing
	case log.Debug().Enabled():
		return -1
	case log.Info().Enabled():
		return grantLinesMost
	}
	return 0
}

func (g *grantLog) add(e registry.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) >= grantLogQueue {
		g.write(e, "")
		return
	}
	g.queue = append(g.queue, e)
	if g.done == nil {
		g.done = make(chan struct{})
		go g.run()
	}
}

func (g *grantLog) run() {
	for {
		g.mu.Lock()
		events := g.queue
		if g.queue = nil; len(events) == 0 {
			close(g.done)
			g.done = nil
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		for _, e := range events {
			g.write(e, procfs.Command(e.Holder.PID))
		}
	}
}

func (g *grantLog) write(e registry.Event, command string) {
	l := g.log.Info()
	addHolder(l, e.Holder)
	if command != "" { // else the process has exited
		l.Str("command", command)
	}
	if e.Why != "" {
		l.Str("why", e.Why)
	}
	if e.Untold > 0 {
		l.Int("not_logged", e.Untold)
	}
	l.Msg(e.What)
}

// flush waits until all was logged, unless a process keeps its command from being read.
func (g *grantLog) flush() {
	g.mu.Lock()
	done := g.done
	g.mu.Unlock()
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-time.After(grantLogWait):
	}
}
