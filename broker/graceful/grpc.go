//go:build linux

package graceful

import (
	"context"
	"net"
	"time"
)

// GRPCServer is what [GRPC] needs of a *grpc.Server of google.golang.org/grpc.
type GRPCServer interface {
	Serve(net.Listener) error
	GracefulStop()
	Stop()
}

// GRPC returns a Server that serves ln with srv. Draining is GracefulStop; what has not finished in time is ended by
// Stop. A connection counts as cut once, however many streams it has.
func GRPC(srv GRPCServer, ln net.Listener) Server {
	return &grpcServer{socket: socket{ln}, srv: srv, ln: ln, over: make(chan struct{})}
}

type grpcServer struct {
	socket
	srv   GRPCServer
	ln    net.Listener
	conns conns
	over  chan struct{} // closed when Serve returns: until then a connection may come
}

func (s *grpcServer) Serve() error {
	defer close(s.over)
	return s.srv.Serve(grpcListener{s.ln, &s.conns})
}

func (s *grpcServer) Close() error { return s.ln.Close() }

// handshakeTime is how long a connection that was accepted last may take to begin. GracefulStop would close it before.
const handshakeTime = 250 * time.Millisecond

func (s *grpcServer) Drain(ctx context.Context) (cut int) {
	select {
	case <-s.over:
	case <-ctx.Done():
	}
	if s.conns.len() > 0 {
		select {
		case <-time.After(handshakeTime):
		case <-ctx.Done():
		}
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.srv.GracefulStop()
	}()
	select {
	case <-stopped:
		return 0
	case <-ctx.Done():
	}
	cut = s.conns.len()
	s.srv.Stop() // GracefulStop may still wait for handlers
	return cut
}

// grpcListener takes note of the connections that it returns.
type grpcListener struct {
	net.Listener
	conns *conns
}

func (l grpcListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.conns.add(c)
	}
	return c, err
}
