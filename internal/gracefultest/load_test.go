//go:build linux

package gracefultest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A load is clients of each kind. None repeats a request.
type load struct {
	ctx  context.Context
	web  string
	rpc  string
	stop func()
	wg   sync.WaitGroup

	mu     sync.Mutex
	done   map[string]int // by kind
	failed map[string][]error
}

// patience bounds a request. It is long, because a stalled machine is no fault of the server's.
const patience = 20 * time.Second

func startLoad(t *testing.T, web, rpc, secure string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{ctx: ctx, web: web, rpc: rpc, done: map[string]int{}, failed: map[string][]error{}}
	l.stop = sync.OnceFunc(func() { cancel(); l.wg.Wait() })
	t.Cleanup(l.stop)
	for range 4 {
		l.client("keep-alive", 2*time.Millisecond, new(keptAlive).ask)
	}
	l.client("new connection", 5*time.Millisecond, (&keptAlive{once: true}).ask)
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	h2.Protocols.SetHTTP2(true)
	t.Cleanup(h2c.CloseIdleConnections)
	t.Cleanup(h2.CloseIdleConnections)
	for range 6 { // many streams on few connections
		l.client("h2c", time.Millisecond, poster(h2c, "http://"+web))
		l.client("h2 over TLS", time.Millisecond, poster(h2, "https://"+secure))
	}
	for range 3 {
		l.client("WebSocket", 2*time.Millisecond, new(socket).ask)
	}
	for range 2 {
		l.client("gRPC call", 2*time.Millisecond, new(caller).call)
		l.client("gRPC stream", 2*time.Millisecond, new(caller).stream)
	}
	return l
}

// client asks, again and again. At the end it calls ask with nil, to close what it has.
func (l *load) client(kind string, pause time.Duration, ask func(*load) error) {
	l.wg.Go(func() {
		for l.ctx.Err() == nil {
			err := ask(l)
			l.mu.Lock()
			l.done[kind]++
			if err != nil {
				l.failed[kind] = append(l.failed[kind], err)
			}
			l.mu.Unlock()
			time.Sleep(pause)
		}
		_ = ask(nil)
	})
}

// more waits until n more requests of each kind were answered.
func (l *load) more(t *testing.T, n int) {
	t.Helper()
	since := l.counts()
	deadline := time.Now().Add(patience)
	for {
		now, enough := l.counts(), true
		for kind, was := range since {
			enough = enough && now[kind] >= was+n
		}
		if enough && len(now) == 7 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the load is not answered: %v before, %v now", since, now)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (l *load) counts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := map[string]int{}
	maps.Copy(counts, l.done)
	return counts
}

// check ends the load and reports what failed.
func (l *load) check(t *testing.T) {
	t.Helper()
	l.stop()
	t.Logf("requests: %v", l.done)
	for kind, errs := range l.failed {
		t.Errorf("%s: %d of %d failed, the first with: %v", kind, len(errs), l.done[kind], errs[0])
	}
}

// keptAlive is a client of HTTP/1.1 with one connection.
type keptAlive struct {
	once bool // a connection is for one request
	conn net.Conn
	r    *bufio.Reader
}

func (k *keptAlive) ask(l *load) (err error) {
	if l == nil {
		k.close()
		return nil
	}
	if k.conn == nil {
		c, err := net.Dial("tcp", l.web)
		if err != nil {
			return err
		}
		k.conn, k.r = c, bufio.NewReader(c)
	}
	last := k.once
	defer func() {
		if last || err != nil {
			k.close()
		}
	}()
	_ = k.conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(k.conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(k.r, nil)
	if err != nil {
		return err
	}
	last = last || resp.Close
	return isHello(resp)
}

func (k *keptAlive) close() {
	if k.conn != nil {
		_ = k.conn.Close()
	}
	k.conn = nil
}

func isHello(resp *http.Response) error {
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(b) != "hello") {
		err = fmt.Errorf("%s: %q", resp.Status, b)
	}
	return err
}

// poster returns a client that posts bodies.
func poster(t *http.Transport, url string) func(*load) error {
	return func(l *load) error {
		if l == nil {
			return nil
		}
		return post(t, url)
	}
}

// post posts a body that cannot be sent again. It repeats a request of which nothing was sent: if a GOAWAY comes when
// net/http has chosen the connection, net/http closes the body and fails, although it would have another connection.
func post(t *http.Transport, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaderField: func(string, []string) { sent.Store(true) }})
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, io.MultiReader(strings.NewReader("hello")))
		if err != nil {
			return err
		}
		resp, err := t.RoundTrip(req)
		if err == nil {
			return isHello(resp)
		}
		if sent.Load() || ctx.Err() != nil {
			return err
		}
	}
}

// socket is a WebSocket. One that the server closes in order is replaced.
type socket struct{ conn *websocket.Conn }

func (s *socket) ask(l *load) error {
	if l == nil {
		if s.conn != nil {
			_ = s.conn.CloseNow()
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s.conn == nil {
		c, _, err := websocket.Dial(ctx, "ws://"+l.web+"/ws", nil)
		if err != nil {
			return fmt.Errorf("dial: %w", err)
		}
		s.conn = c
	}
	err := s.conn.Write(ctx, websocket.MessageText, []byte("hello"))
	if err == nil {
		_, _, err = s.conn.Read(ctx)
	} else if _, _, rerr := s.conn.Read(ctx); rerr != nil {
		err = rerr // says why
	}
	if err == nil {
		return nil
	}
	_ = s.conn.CloseNow()
	s.conn = nil
	if websocket.CloseStatus(err) == websocket.StatusGoingAway {
		return nil
	}
	return err
}

// caller is a client of gRPC.
type caller struct{ conn *grpc.ClientConn }

func (c *caller) dial(l *load) (_ *grpc.ClientConn, err error) {
	if l == nil {
		if c.conn != nil {
			_ = c.conn.Close()
		}
		return nil, context.Canceled
	}
	if c.conn == nil {
		c.conn, err = grpc.NewClient(l.rpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	}
	return c.conn, err
}

func (c *caller) call(l *load) error {
	conn, err := c.dial(l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return conn.Invoke(ctx, "/echo/Say", wrapperspb.String("hello"), new(wrapperspb.StringValue))
}

// stream says something ten times in a stream.
func (c *caller) stream(l *load) error {
	conn, err := c.dial(l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := talk(ctx, conn)
	if err != nil {
		return err
	}
	for range 10 {
		if err := say(s); err != nil {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if err := s.RecvMsg(new(wrapperspb.StringValue)); err != io.EOF {
		return fmt.Errorf("the stream ended with %w", err)
	}
	return nil
}

func talk(ctx context.Context, conn *grpc.ClientConn) (grpc.ClientStream, error) {
	return conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/echo/Talk")
}

func say(s grpc.ClientStream) error {
	if err := s.SendMsg(wrapperspb.String("hello")); err != nil && err != io.EOF {
		return err
	}
	return s.RecvMsg(new(wrapperspb.StringValue))
}

// endless are streams and WebSockets that never end by themselves, each with a connection of its own.
type endless struct {
	over sync.WaitGroup
	mu   sync.Mutex
	cut  int
}

// stream begins one, and returns once it is answered.
func (e *endless) stream(t *testing.T, rpc string) {
	t.Helper()
	conn, err := grpc.NewClient(rpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	s, err := talk(context.Background(), conn)
	if err == nil {
		err = say(s)
	}
	if err != nil {
		t.Fatal(err)
	}
	e.over.Go(func() {
		defer conn.Close()
		for say(s) == nil {
			time.Sleep(10 * time.Millisecond)
		}
		e.mu.Lock()
		e.cut++
		e.mu.Unlock()
	})
}
