//go:build linux

package graceful

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// goAwayListener returns connections on which an HTTP/2 client can be told to make no new streams.
type goAwayListener struct {
	net.Listener
	server *httpServer
	h2c    bool // there may be clients of HTTP/2 without TLS
	over   sync.Once
}

func (l *goAwayListener) Accept() (net.Conn, error) {
	l.over.Do(l.server.goAwayOverTLS) // by now net/http has set up its HTTP/2
	c, err := l.Listener.Accept()
	if err != nil || !l.h2c {
		return c, err
	}
	if _, ok := c.(syscall.Conn); !ok {
		return c, nil // a *tls.Conn, which net/http wants to see
	}
	return &goAwayConn{Conn: c, server: l.server}, nil
}

// goAwayConn is a connection to a client of HTTP/1 or HTTP/2. It sees what is written before TLS encrypts it.
//
// The GOAWAY of net/http names the last stream that the server has seen, so it refuses a stream that crosses it, and a
// client that may not repeat the request fails. RFC 9113, section 6.8, has the remedy: a GOAWAY before with the highest
// number there is, which refuses nothing. net/http does not send it, so goAwayConn does, between two frames.
type goAwayConn struct {
	net.Conn
	server *httpServer

	mu     sync.Mutex // held while writing
	frames frames
	sent   atomic.Bool // the GOAWAY
}

// Write implements [net.Conn].
func (c *goAwayConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.Conn.Write(b)
	c.frames.wrote(b[:n])
	if err == nil && c.server.draining.Load() {
		c.sendGoAway()
	}
	return n, err
}

// goAway makes the client make no new streams, if it is one of HTTP/2.
func (c *goAwayConn) goAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendGoAway()
}

// goAwayFrame is a GOAWAY of no error, with the last stream 2^31-1.
var goAwayFrame = []byte{0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0}

// sendGoAway sends a GOAWAY, once, if a frame has just ended. Otherwise the next Write calls it again.
func (c *goAwayConn) sendGoAway() {
	if !c.sent.Load() && c.frames.between() {
		_, _ = c.Conn.Write(goAwayFrame) // an error is for the next Write to find
		c.sent.Store(true)
	}
}

// ReadFrom implements [io.ReaderFrom], by which net/http copies files.
func (c *goAwayConn) ReadFrom(r io.Reader) (int64, error) {
	c.mu.Lock()
	http1 := c.frames.other
	c.mu.Unlock()
	if http1 { // a response has begun, so there will be no frames
		return io.Copy(c.Conn, r)
	}
	return io.Copy(writerOnly{c}, r)
}

type writerOnly struct{ io.Writer }

// CloseWrite shuts down the writing side, if the connection can do that.
func (c *goAwayConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn implements [syscall.Conn].
func (c *goAwayConn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// NetConn returns the connection that c wraps.
func (c *goAwayConn) NetConn() net.Conn { return c.Conn }

// frames finds the end of each frame in what a server of HTTP/2 writes.
type frames struct {
	header  [9]byte
	n       int  // bytes of header
	payload int  // bytes of the frame's payload that are to come
	begun   bool // the server's first frame was seen
	other   bool // it is not HTTP/2
}

// between reports whether the last frame is complete.
func (f *frames) between() bool { return f.begun && !f.other && f.n == 0 && f.payload == 0 }

// wrote takes note of what was written.
func (f *frames) wrote(b []byte) {
	for len(b) > 0 && !f.other {
		if f.payload > 0 {
			n := min(f.payload, len(b))
			f.payload -= n
			b = b[n:]
			continue
		}
		n := copy(f.header[f.n:], b)
		f.n += n
		b = b[n:]
		if f.n < len(f.header) {
			return
		}
		f.n = 0
		f.payload = int(binary.BigEndian.Uint32(f.header[:]) >> 8)
		f.other = !f.begun && !isSettings(f.header)
		f.begun = true
	}
}

const settingsFrame = 4

// isSettings reports whether a header is that of what a server sends first.
func isSettings(h [9]byte) bool {
	return h == [9]byte{h[0], h[1], h[2], settingsFrame}
}
