//go:build linux

package graceful

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"
)

// The keys of [http.Server].TLSNextProto. By the second one net/http gives connections without TLS to its HTTP/2, or to
// that of golang.org/x/net, which is why it does not change: the function finds the connection by the method
// UnencryptedNetConn of the one under its *tls.Conn, and the client's preface has been read.
const (
	overTLS = "h2"
	plain   = "unencrypted_http2"
)

// preface is what a client of HTTP/2 sends first.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// prefaceTime is how long the client may take for that, as in net/http.
const prefaceTime = 10 * time.Second

// goAwayOverTLS makes HTTP/2 over TLS use a goAwayConn. If net/http has no such function as is needed here, clients get
// net/http's GOAWAY.
func (s *httpServer) goAwayOverTLS() {
	serve := s.srv.TLSNextProto[plain]
	if s.srv.TLSNextProto[overTLS] == nil || serve == nil {
		return
	}
	s.tlsAway = true
	s.srv.TLSNextProto[overTLS] = func(srv *http.Server, c *tls.Conn, h http.Handler) {
		if !readPreface(c) {
			_ = c.Close()
			return
		}
		away := &goAwayConn{Conn: c, server: s}
		if a, ok := s.open.Load(c); ok {
			a.(*activity).away.Store(away)
		}
		serve(srv, tls.Client(plainConn{tlsGoAwayConn{away, c}}, nil), h)
	}
}

// readPreface reports whether the client is one of HTTP/2.
func readPreface(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(prefaceTime))
	b := make([]byte, len(preface))
	_, err := io.ReadFull(c, b)
	_ = c.SetReadDeadline(time.Time{})
	return err == nil && string(b) == preface
}

// tlsGoAwayConn is a goAwayConn over TLS, whose state HTTP/2 looks at.
type tlsGoAwayConn struct {
	*goAwayConn
	tls *tls.Conn
}

func (c tlsGoAwayConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// plainConn is how net/http hides a connection in a *tls.Conn.
type plainConn struct{ net.Conn }

func (c plainConn) UnencryptedNetConn() net.Conn { return c.Conn }
