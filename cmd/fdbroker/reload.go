//go:build linux

package main

import (
	"context"
	"os"
	"strings"
	"sync"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/rs/zerolog"
)

// reloader reads the configuration file again, when a signal or a client asks.
type reloader struct {
	server  *server.Server
	binds   []string // of the command line: these stay
	config  string
	manager *manager
	log     zerolog.Logger

	mu sync.Mutex // one at a time, so that each READY=1 ends the RELOADING=1 before it
}

// onSignals reloads for each of signals until ctx is done. Without --config there is
// nothing to read; that the signal is heard all the same is what keeps a broker alive
// when its terminal is closed.
func (r *reloader) onSignals(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			_, _ = r.reload() // which has logged it
		}
	}
}

// reload reads the configuration again and logs an error that this gives.
func (r *reloader) reload() (server.Changes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manager.tell(notify.Reloading())
	if r.config == "" {
		r.log.Info().Msg("nothing to reload: there is no --config")
		r.manager.tell(notify.Ready)
		return server.Changes{}, &protocol.ReloadFailedError{Reasons: []string{"nothing to reload: the broker was started without --config"}}
	}
	changes, err := r.load()
	if err != nil {
		r.log.Error().Err(err).Str("config", r.config).Msg("configuration not loaded, nothing changed")
		r.manager.tell(notify.Ready, notify.Status(r.manager.serving()+"; configuration not loaded: "+err.Error()))
		return changes, err
	}
	r.manager.tell(notify.Ready)
	return changes, nil
}

func (r *reloader) load() (server.Changes, error) {
	listeners, err := specs(r.binds, r.config)
	if err != nil {
		return server.Changes{}, &protocol.ReloadFailedError{Reasons: strings.Split(err.Error(), "\n")}
	}
	return r.server.Reload(listeners)
}
