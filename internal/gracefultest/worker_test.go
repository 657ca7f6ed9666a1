//go:build linux

package gracefultest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/graceful"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// grace is short, because streams that never end use it up.
const grace = 6 * time.Second

// worker serves "web" and "rpc" until it is asked to leave. It prints how many connections it has cut.
func worker([]string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var d broker.Dialer
	lns, err := d.DialAll(ctx, "web", "rpc", "tls")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	certificate, err := newCertificate()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	leaving := make(chan struct{})
	rpc := grpc.NewServer()
	rpc.RegisterService(&echoService, nil)
	err = graceful.Run(ctx, graceful.Config{Grace: grace, OnDrain: func() { close(leaving) }},
		graceful.HTTP(webServer(leaving), lns[0]), graceful.GRPC(rpc, lns[1]),
		graceful.HTTP(webServer(leaving), tls.NewListener(lns[2], &tls.Config{Certificates: certificate, NextProtos: []string{"h2"}})))
	if cut, ok := errors.AsType[*graceful.CutError](err); ok {
		fmt.Printf("cut=%d.\n", cut.Count)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "worker failed:", err)
		return 1
	}
	return 0
}

// webServer answers HTTP/1.1, HTTP/2 without TLS, and WebSockets, which it closes when leaving is closed.
func webServer(leaving <-chan struct{}) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		time.Sleep(time.Millisecond)
		_, _ = w.Write(b)
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		over := make(chan struct{})
		defer close(over)
		go func() {
			select {
			case <-leaving:
				_ = c.Close(websocket.StatusGoingAway, "goodbye")
			case <-over:
			}
		}()
		for {
			kind, b, err := c.Read(context.Background())
			if err != nil || c.Write(context.Background(), kind, b) != nil {
				return
			}
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return srv
}

// echoService has a call and a stream that say what they are told.
var echoService = grpc.ServiceDesc{
	ServiceName: "echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Say", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		m := new(wrapperspb.StringValue)
		return m, decode(m)
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Talk", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			m := new(wrapperspb.StringValue)
			if err := s.RecvMsg(m); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	}}},
}
