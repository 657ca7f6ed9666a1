//go:build linux

package graceful

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// HTTP returns a Server that serves ln with srv. It changes srv's Handler and ConnState, to functions that call them, and
// srv must not be used otherwise: [http.Server.Shutdown] would drop requests. For several listeners, make a
// [http.Server] with the same Handler for each.
//
// The connections that it counts as cut are those with a request that was not answered, and those that were hijacked
// and are still open. If the type of a hijacked connection is one of the program's own, it must have a SyscallConn
// method to be waited for.
//
// For TLS, ln is of [crypto/tls.NewListener], with "h2" among the NextProtos of its Config if HTTP/2 is wanted.
//
// If srv.Protocols includes unencrypted HTTP/2, srv gets connections of a type of this package. They have the methods of
// a [net.TCPConn] that net/http looks for.
func HTTP(srv *http.Server, ln net.Listener) Server {
	s := &httpServer{socket: socket{ln}, srv: srv, ln: ln, handler: srv.Handler, hook: srv.ConnState, over: make(chan struct{})}
	if s.handler == nil {
		s.handler = http.DefaultServeMux
	}
	srv.Handler, srv.ConnState = s, s.connState
	s.ln = &goAwayListener{Listener: ln, server: s, h2c: srv.Protocols != nil && srv.Protocols.UnencryptedHTTP2()}
	return s
}

type httpServer struct {
	socket
	srv     *http.Server
	ln      net.Listener
	handler http.Handler
	hook    func(net.Conn, http.ConnState)
	over    chan struct{} // closed when Serve returns: until then a connection may come

	draining atomic.Bool
	tlsAway  bool     // goAwayConn is used over TLS too; set before there are connections
	open     sync.Map // from net.Conn to *activity
	hijacked conns
}

// activity is what a connection does.
type activity struct {
	away atomic.Pointer[goAwayConn] // if a GOAWAY can be sent

	mu    sync.Mutex
	state http.ConnState
	since time.Time
}

func (s *httpServer) Serve() error {
	defer close(s.over)
	return s.srv.Serve(s.ln)
}

func (s *httpServer) Close() error { return s.ln.Close() }

// ServeHTTP makes the response the last of its connection while s drains.
func (s *httpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.draining.Load() && s.isLast(r) {
		w.Header().Set("Connection", "close") // for HTTP/2 a GOAWAY
	}
	s.handler.ServeHTTP(w, r)
}

// isLast reports whether "Connection: close" suits the response. It does not if the connection becomes something else,
// or if there was a GOAWAY that refuses nothing: net/http's would refuse the streams that cross it.
func (s *httpServer) isLast(r *http.Request) bool {
	if r.ProtoMajor == 2 {
		return r.TLS != nil && !s.tlsAway
	}
	return r.Header.Get("Upgrade") == ""
}

// connState follows the connections.
func (s *httpServer) connState(c net.Conn, state http.ConnState) {
	if away, ok := c.(tlsGoAwayConn); ok {
		c = away.tls // which is in the map, and what the program knows
	}
	switch state {
	case http.StateNew:
		a := &activity{state: state, since: time.Now()}
		if away, ok := c.(*goAwayConn); ok {
			a.away.Store(away)
		}
		s.open.Store(c, a)
	case http.StateActive, http.StateIdle:
		if a, ok := s.open.Load(c); ok {
			a.(*activity).set(state)
		}
	case http.StateHijacked:
		s.hijacked.add(c)
		s.open.Delete(c)
	case http.StateClosed:
		s.open.Delete(c)
	}
	if s.hook != nil {
		s.hook(c, state)
	}
}

func (a *activity) set(state http.ConnState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state, a.since = state, time.Now()
}

// isIdle reports whether the connection has been without a request since a time.
func (a *activity) isIdle(since time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state != http.StateActive && a.since.Before(since)
}

// The delays between two looks at the connections while s drains.
const (
	minLook = time.Millisecond
	maxLook = 50 * time.Millisecond
)

func (s *httpServer) Drain(ctx context.Context) (cut int) {
	defer s.srv.Close()
	s.draining.Store(true)
	s.open.Range(func(_, a any) bool {
		if away := a.(*activity).away.Load(); away != nil {
			go away.goAway() // it may have to wait for a client that does not read
		}
		return true
	})
	began := time.Now()
	idleTime := maxLook
	if end, ok := ctx.Deadline(); ok {
		idleTime = end.Sub(began) / 2
	}
	select {
	case <-s.over:
	case <-ctx.Done():
	}
	for look := minLook; s.left(began, idleTime) > 0; look = min(2*look, maxLook) {
		select {
		case <-ctx.Done():
			return s.cut()
		case <-time.After(look):
		}
	}
	return 0
}

// goAwayTime is how long a client may take to read a GOAWAY, as in net/http. It makes no streams then, but it may leave
// its connection open.
const goAwayTime = time.Second

// left returns how many connections are open. It closes those that have been idle for idleTime since the drain began, or
// for goAwayTime if the client knows.
func (s *httpServer) left(began time.Time, idleTime time.Duration) (n int) {
	s.open.Range(func(key, value any) bool {
		c, a := key.(net.Conn), value.(*activity)
		wait := idleTime
		if away := a.away.Load(); away != nil && away.sent.Load() {
			wait = min(wait, goAwayTime)
		}
		before := time.Now().Add(-wait)
		if began.Before(before) && a.isIdle(before) && !hasSent(c) {
			_ = c.Close() // which connState hears of
		}
		n++
		return true
	})
	return n + s.hijacked.len()
}

// cut closes all connections, and returns how many of them were in use.
func (s *httpServer) cut() (n int) {
	s.open.Range(func(c, a any) bool {
		if !a.(*activity).isIdle(time.Now()) {
			n++
		}
		return true
	})
	_ = s.srv.Close()
	return n + s.hijacked.close()
}
