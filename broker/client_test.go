//go:build linux

package broker_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

func TestClient(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	b := startBrokerAt(t, path, server.Config{Version: "1.2.3"})
	c, ctx := b.client(), context.Background()
	if info, err := c.Info(ctx); err != nil || info.Product != "fdbroker" || info.Version != "1.2.3" {
		t.Errorf("Info: %+v, %v", info, err)
	}
	bound, err := c.Bind(ctx, "web=127.0.0.1:0", "adm=127.0.0.1:0,backlog=3")
	if err != nil || len(bound) != 2 || bound[0].Name != "web" || bound[1].Name != "adm" || *bound[1].Limit != 3 {
		t.Fatalf("Bind: %+v, %v", bound, err)
	}
	sockets, err := c.Get(ctx, broker.GetOptions{}, "adm", "web")
	if err != nil || len(sockets) != 2 || sockets[0].Name != "adm" || sockets[1].Address != bound[0].Address {
		t.Fatalf("Get: %+v, %v", sockets, err)
	}
	list, err := c.List(ctx)
	if err != nil || len(list.Listeners) != 2 || len(list.Holders) != 1 || list.Holders[0].Connection {
		t.Errorf("List: %+v, %v", list, err)
	}
	for _, s := range sockets {
		if err := s.FD.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := c.Unbind(ctx, "web"); err != nil {
		t.Errorf("Unbind: %v", err)
	}

	// A refusal leaves the client usable.
	if err := c.Unbind(ctx, "adm", "web"); !errors.Is(err, broker.ErrUnknownName) {
		t.Errorf("Unbind: %v", err)
	}
	if _, err := c.Bind(ctx, "adm=127.0.0.1:0"); !errors.Is(err, broker.ErrNameInUse) {
		t.Errorf("Bind of a name in use: %v", err)
	}
	if _, err := c.Bind(ctx, "x="+bound[1].Address, "y=nonsense://"); !errors.Is(err, broker.ErrBindFailed) {
		t.Errorf("Bind: %v", err)
	}
	if list, err = c.List(ctx); err != nil || len(list.Listeners) != 1 {
		t.Errorf("List: %+v, %v", list, err)
	}
}

func TestClientBlocking(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	ln := b.dial("web")
	blocking := broker.GetOptions{Blocking: new(true)}
	if _, err := b.client().Get(context.Background(), blocking, "web"); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("got %v", err)
	}
	_ = ln.Close()
	b.waitHolders("web", 0)
	sockets, err := b.client().Get(context.Background(), blocking, "web")
	if err != nil {
		t.Fatal(err)
	}
	_ = sockets[0].FD.Close()
	if !b.listener("web").Blocking {
		t.Error("not blocking")
	}
}

func TestClientConcurrently(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	c := b.client()
	errs := make(chan error)
	for i := range 30 {
		go func() {
			var err error
			switch i % 3 {
			case 0:
				_, err = c.List(context.Background())
			case 1:
				_, err = c.Info(context.Background())
			default:
				var sockets []broker.Socket
				if sockets, err = c.Get(context.Background(), broker.GetOptions{}, "web"); err == nil {
					err = sockets[0].FD.Close()
				}
			}
			errs <- err
		}()
	}
	for range 30 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestClientReconnects(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t)
	c := b.client()
	for range 3 {
		if _, err := c.Info(context.Background()); err != nil {
			t.Fatal(err)
		}
		b.stop()
		if _, err := c.Info(context.Background()); !errors.Is(err, broker.ErrNoBroker) {
			t.Errorf("without a broker: %v", err)
		}
		b = startBrokerAt(t, b.path, server.Config{})
		if _, err := c.Info(context.Background()); err != nil {
			t.Error(err)
		}
		// The client has not noticed that the broker was away.
		b.stop()
		b = startBrokerAt(t, b.path, server.Config{})
	}
}

// TestClientAsksOnce: a client does not repeat a call that the broker may have seen.
func TestClientAsksOnce(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := startFake(t)
	c := &broker.Client{Socket: f.path}
	defer c.Close()
	result := make(chan error)
	go func() {
		_, err := c.Info(context.Background())
		result <- err
	}()
	conn := f.accept()
	conn.readCall()
	conn.send(`{"parameters":{}}`+end, 0)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	go func() { result <- c.Unbind(context.Background(), "web") }()
	if got := conn.readCall(); got != protocol.MethodUnbind {
		t.Errorf("got a call of %q", got)
	}
	_ = conn.conn.Close()
	if err := <-result; !errors.Is(err, broker.ErrLost) {
		t.Errorf("got %v", err)
	}
}

func TestClientWaits(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	c := &broker.Client{Socket: path}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), fdtest.Long(50*time.Millisecond)) // for one attempt
	defer cancel()
	_, err := c.Get(ctx, broker.GetOptions{Wait: true}, "web")
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, broker.ErrNoBroker) {
		t.Errorf("got %v", err)
	}
	b := startBrokerAt(t, path, server.Config{})
	result := get(context.Background(), c)
	b.waitWaiting("web", 1)
	b.bind("web=127.0.0.1:0")
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// get runs a Get that waits, and closes what it returns.
func get(ctx context.Context, c *broker.Client) <-chan error {
	result := make(chan error, 1)
	go func() {
		sockets, err := c.Get(ctx, broker.GetOptions{Wait: true}, "web")
		for _, s := range sockets {
			_ = s.FD.Close()
		}
		result <- err
	}()
	return result
}

// TestClientTurn: a call ends with its context, whether it waits for its turn or for the
// broker.
func TestClientTurn(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t)
	c := b.client()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	first := get(ctx, c)
	b.waitWaiting("web", 1)
	short, stop := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer stop()
	if _, err := c.List(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second call: %v", err)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first call: %v", err)
	}
	if _, err := c.List(context.Background()); err != nil {
		t.Errorf("the third call: %v", err)
	}
}

func TestClientClose(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t)
	c := b.client()
	waiting := get(context.Background(), c)
	b.waitWaiting("web", 1)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the call under way: %v", err)
	}
	if _, err := c.List(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a later call: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	b.waitWaiting("web", 0)

	unused := broker.Client{}
	if err := unused.Close(); err != nil {
		t.Error(err)
	}
	if _, err := unused.Info(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestClientCloseWithoutBroker: Close also ends a wait for a broker.
func TestClientCloseWithoutBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	c := &broker.Client{Socket: filepath.Join(fdtest.SocketDir(t), "c")}
	waiting := get(context.Background(), c)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
