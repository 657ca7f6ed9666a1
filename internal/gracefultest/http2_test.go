//go:build linux

package gracefultest

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/graceful"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestGoAway: a client of HTTP/2 gets a GOAWAY that refuses nothing, also while a response is being written, and a stream
// that it has begun before it read that is answered.
func TestGoAway(t *testing.T) {
	t.Run("plain", func(t *testing.T) {
		testGoAway(t, func(ln net.Listener) net.Listener { return ln }, func(c net.Conn) net.Conn { return c })
	})
	t.Run("TLS", func(t *testing.T) {
		server, client := tlsConfigs(t, "h2")
		testGoAway(t, func(ln net.Listener) net.Listener { return tls.NewListener(ln, server) }, func(c net.Conn) net.Conn {
			client.ServerName = "127.0.0.1"
			return tls.Client(c, client)
		})
	})
}

func testGoAway(t *testing.T, over func(net.Listener) net.Listener, overClient func(net.Conn) net.Conn) {
	fdtest.CheckLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln = over(ln)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	slow := make(chan struct{})
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, secure := ln.(*net.TCPListener); secure == (r.TLS != nil) {
			t.Errorf("r.TLS is %v", r.TLS)
		}
		_, _ = w.Write(make([]byte, 100_000)) // more than a client takes at first
		if r.URL.Path == "/slow" {
			<-slow
		}
	})}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan error, 1)
	go func() { ended <- graceful.Serve(ctx, srv, ln, graceful.Config{Grace: patience}) }()

	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn = overClient(conn)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := newClient(t, conn)
	c.request(1, "/slow")
	c.until(func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok && f.Header().StreamID == 1 })
	stop()
	away := c.until(func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok }).(*http2.GoAwayFrame)
	if away.LastStreamID != 1<<31-1 || away.ErrCode != http2.ErrCodeNo {
		t.Errorf("got %v", away)
	}
	c.request(3, "/") // as if it had crossed the GOAWAY
	if err := c.fr.WriteWindowUpdate(0, 1<<20); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []uint32{1, 3} {
		if err := c.fr.WriteWindowUpdate(stream, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	close(slow)
	for left := map[uint32]bool{1: true, 3: true}; len(left) > 0; {
		f := c.until(func(f http2.Frame) bool { d, ok := f.(*http2.DataFrame); return ok && d.StreamEnded() })
		delete(left, f.Header().StreamID)
	}
	_ = conn.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// h2client is a client that writes and reads frames.
type h2client struct {
	t  *testing.T
	fr *http2.Framer
}

func newClient(t *testing.T, conn net.Conn) *h2client {
	t.Helper()
	c := &h2client{t, http2.NewFramer(conn, conn)}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.fr.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *h2client) request(stream uint32, path string) {
	c.t.Helper()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", path}} {
		if err := e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: b.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		c.t.Fatal(err)
	}
}

// until reads frames until one is wanted. It acknowledges settings.
func (c *h2client) until(wanted func(http2.Frame) bool) http2.Frame {
	c.t.Helper()
	for {
		f, err := c.fr.ReadFrame()
		if err != nil {
			c.t.Fatal(err)
		}
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			if err := c.fr.WriteSettingsAck(); err != nil {
				c.t.Fatal(err)
			}
		}
		if wanted(f) {
			return f
		}
	}
}
