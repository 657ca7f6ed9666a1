package main

import (
	"context"
	"errors"
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
	binds   []string // of the command line
	config  string
	manager *manager
	log     zerolog.Logger

	mu sync.Mutex // one reload at a time, so that each READY=1 ends the RELOADING=1 before it

	stopped chan struct{} // is closed when the broker is to stop
}

// errStops says that the broker no longer reads its configuration.
var errStops = errors.New("the broker is stopping")

// onSignals reloads for each of signals until ctx is done. It is called once, also without
// --config, because an unhandled SIGHUP would end a broker whose terminal is closed.
func (r *reloader) onSignals(ctx context.Context, signals <-chan os.Signal) {
	context.AfterFunc(ctx, func() { close(r.stopped) })
	onEach(ctx, signals, func() { _, _ = r.reload(server.ReloadOptions{}) }) // which logs its error
}

// onEach calls f for each of signals until ctx is done.
func onEach(ctx context.Context, signals <-chan os.Signal, f func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			f()
		}
	}
}

// reload reads the configuration again and logs an error that this gives.
func (r *reloader) reload(o server.ReloadOptions) (server.Changes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manager.tell(notify.Reloading())
	if r.config == "" {
		r.log.Info().Msg("nothing to reload without --config")
		r.manager.tell(notify.Ready)
		return server.Changes{}, &protocol.ReloadFailedError{Reasons: []string{"nothing to reload: the broker was started without --config"}}
	}
	changes, err := r.load(o)
	if err != nil {
		r.log.Error().Err(err).Str("config", r.config).Msg("configuration not loaded, nothing changed")
		r.manager.tell(notify.Ready, notify.Status(r.manager.serving()+"; configuration not loaded: "+err.Error()))
		return changes, err
	}
	r.manager.tell(notify.Ready)
	return changes, nil
}

func (r *reloader) load(o server.ReloadOptions) (server.Changes, error) {
	config, err := unless(r.stopped, func() (configuration, error) { return configure(r.binds, r.config) })
	if err != nil {
		reasons := strings.Split(err.Error(), "\n")
		for i, reason := range reasons {
			if strings.HasPrefix(reason, "--config: ") { // fdclient, which says it, has no such flag
				reasons[i] = "the broker's " + reason
			}
		}
		return server.Changes{}, &protocol.ReloadFailedError{Reasons: append(reasons, "nothing changed")}
	}
	o.Doubt = *config.doubt
	return r.server.Reload(config.listeners, o)
}

// unless returns the results of f, or [errStops] once over is closed: f may block for ever in
// a file system, and then ends with the process.
func unless[T any](over <-chan struct{}, f func() (T, error)) (value T, err error) {
	var result T
	var rerr error
	done := make(chan struct{})
	go func() {
		result, rerr = f()
		close(done)
	}()
	select {
	case <-done:
		return result, rerr
	case <-over:
		return value, errStops
	}
}
