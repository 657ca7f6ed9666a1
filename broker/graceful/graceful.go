//go:build linux

package graceful

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/notify"
)

// Config says how to leave. The zero Config is ready to use.
type Config struct {
	// Grace is how long connections may take to finish. Those that have not are cut. 0 means 8 s: "fdclient run" kills
	// a worker 10 s after it has asked it to leave.
	Grace time.Duration
	// OnDrain, if it is not nil, is called in a goroutine of its own when draining begins, once no more connections are
	// accepted. It is the place to say goodbye to hijacked connections, such as WebSockets, and to end streams.
	OnDrain func()
	// Replace makes the process ask the older holders of its listeners to leave, once it is ready: see
	// [broker.Listener.Replace]. It asks again if the broker is away. Without it, that is for who deploys to do, such
	// as "fdclient run --replace". It finds the listener in one that embeds it, such as that of [crypto/tls.NewListener].
	Replace bool
}

const defaultGrace = 8 * time.Second

// Server is something that serves. [HTTP], [GRPC] and [Packet] return one.
type Server interface {
	// Serve serves until Close is called or the listener is asked to leave. Its error is then, in the sense of
	// [errors.Is], [net.ErrClosed]; or it is nil. Any other error ends Run.
	Serve() error
	// Close makes Serve return, and closes no connection.
	Close() error
	// Drain is called after Close. It returns when all connections have finished. If ctx is done before that, it closes
	// the others and returns how many had not finished.
	Drain(ctx context.Context) (cut int)
}

// CutError says that connections had not finished in time and were closed.
type CutError struct {
	Count int           // of connections; see [GRPC] and [Packet] about theirs
	Grace time.Duration // the time that they had
}

func (e *CutError) Error() string {
	if e.Count == 1 {
		return fmt.Sprintf("1 connection was cut: it had not finished after %v", e.Grace)
	}
	return fmt.Sprintf("%d connections were cut: they had not finished after %v", e.Count, e.Grace)
}

// Serve serves ln with srv, which must not be used otherwise, as [Run] does with [HTTP].
func Serve(ctx context.Context, srv *http.Server, ln net.Listener, c Config) error {
	return Run(ctx, c, HTTP(srv, ln))
}

// Run serves with all servers until the broker asks the process to leave, ctx is done, or one of them fails. Then it
// stops all of them, gives their connections c.Grace to finish, and closes what is left. It takes the servers'
// listeners.
//
// Once the servers have been started, Run says READY=1 to the service manager, if there is one. An error of that is not
// returned, because the manager notices by itself.
//
// The error is nil if all connections have finished. It is a *[CutError] if connections were cut, and the error of a
// server that failed, or of [Config].Replace; all of them if there are several.
func Run(ctx context.Context, c Config, servers ...Server) error {
	if c.Grace == 0 {
		c.Grace = defaultGrace
	}
	served := make(chan error, len(servers))
	for _, s := range servers {
		go func() { served <- s.Serve() }()
	}
	if ctx.Err() == nil {
		_ = notify.Tell(notify.Ready)
	}
	replaced := c.startReplacing(ctx, servers)

	var first []error // of the server that has ended by itself
	select {
	case <-ctx.Done():
	case err := <-served:
		first = []error{failure(err)}
	}
	replaceErr := replaced() // a process that leaves makes no other leave
	for _, s := range servers {
		_ = s.Close()
	}
	grace, cancel := context.WithTimeout(context.Background(), c.Grace)
	defer cancel()
	cut := c.drain(grace, servers)
	errs := first
	for range len(servers) - len(first) {
		select {
		case err := <-served:
			errs = append(errs, failure(err))
		case <-grace.Done():
		}
	}
	return errors.Join(append(errs, replaceErr, cut)...)
}

// failure returns err, unless it is that of a listener which was closed or asked to leave.
func failure(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// drain drains all servers at the same time. The error is a *CutError.
func (c Config) drain(ctx context.Context, servers []Server) error {
	var over sync.WaitGroup
	told := make(chan struct{})
	go func() {
		defer close(told)
		if c.OnDrain != nil {
			c.OnDrain()
		}
	}()
	counts := make([]int, len(servers))
	for i, s := range servers {
		over.Go(func() { counts[i] = s.Drain(ctx) })
	}
	over.Wait()
	select {
	case <-told:
	case <-ctx.Done():
	}
	cut := 0
	for _, n := range counts {
		cut += n
	}
	if cut > 0 {
		return &CutError{Count: cut, Grace: c.Grace}
	}
	return nil
}

// startReplacing makes the older holders of the servers' listeners leave, if that is wanted. The function that it
// returns ends that, and returns its error.
func (c Config) startReplacing(ctx context.Context, servers []Server) (stop func() error) {
	if !c.Replace {
		return func() error { return nil }
	}
	ctx, cancel := context.WithCancel(ctx)
	result := make(chan error, 1)
	go func() {
		var errs []error
		for _, s := range servers {
			if r, ok := s.(replacer); ok {
				errs = append(errs, replace(ctx, r))
			}
		}
		result <- errors.Join(errs...)
	}()
	return func() error {
		cancel()
		return <-result
	}
}

// replacer is a server, or its listener, that can ask older holders to leave: see [broker.Listener.Replace].
type replacer interface {
	Replace(ctx context.Context) (drained int, err error)
}

// replaceAgain is the time between two attempts.
const replaceAgain = time.Second

// replace calls Replace until it has reached a broker or ctx is done.
func replace(ctx context.Context, r replacer) error {
	for {
		_, err := r.Replace(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, broker.ErrNoBroker) && !errors.Is(err, broker.ErrLost):
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(replaceAgain):
		}
	}
}

// socket is the listener or PacketConn of a server.
type socket struct{ value any }

// Replace implements replacer.
func (s socket) Replace(ctx context.Context) (drained int, err error) {
	for value := s.value; value != nil; value = embedded(value) {
		if r, ok := value.(replacer); ok {
			return r.Replace(ctx)
		}
	}
	return 0, nil
}

// embedded returns the listener that another one wraps in an embedded field, as those of crypto/tls and of
// golang.org/x/net/netutil do; nil: it does not.
func embedded(ln any) any {
	v := reflect.Indirect(reflect.ValueOf(ln))
	if v.Kind() != reflect.Struct {
		return nil
	}
	if f, ok := v.Type().FieldByName("Listener"); !ok || !f.Anonymous || len(f.Index) > 1 || f.Type.Kind() != reflect.Interface {
		return nil
	}
	return v.FieldByName("Listener").Interface()
}
