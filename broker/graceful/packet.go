//go:build linux

package graceful

import "context"

// PacketConn is what [Packet] needs of a [broker.PacketConn].
type PacketConn interface {
	CloseRead() error
	Close() error
}

// Packet returns a Server that answers datagrams. serve has to read from pc until that fails, and to return the error of
// that once its handlers have returned; a dns.Server of github.com/miekg/dns does so. Then pc is closed, so handlers can
// answer for as long as the grace lasts. If serve has not returned in time, that counts as one connection which was cut.
func Packet(pc PacketConn, serve func() error) Server {
	return &packetServer{socket: socket{pc}, pc: pc, serve: serve, over: make(chan struct{})}
}

type packetServer struct {
	socket
	pc    PacketConn
	serve func() error
	over  chan struct{}
}

func (s *packetServer) Serve() error {
	defer close(s.over)
	return s.serve()
}

func (s *packetServer) Close() error { return s.pc.CloseRead() }

func (s *packetServer) Drain(ctx context.Context) (cut int) {
	defer s.pc.Close()
	select {
	case <-s.over:
		return 0
	case <-ctx.Done():
		return 1
	}
}
