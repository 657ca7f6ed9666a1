//go:build linux

package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
)

// startExample starts a broker as "fdbroker --bind SPEC..." would, with a control socket that
// FDBROKER_SOCKET names. It returns a function that stops it.
func startExample(specs ...string) (stop func()) {
	dir, err := os.MkdirTemp("", "fd")
	if err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(dir, "c")
	s, err := server.New(server.Config{Version: "1.0"})
	if err != nil {
		log.Fatal(err)
	}
	control, err := server.ListenControl(server.ControlConfig{Path: path})
	if err != nil {
		log.Fatal(err)
	}
	for _, text := range specs {
		spec, err := spec.Parse(text)
		if err != nil {
			log.Fatal(err)
		}
		if err := s.Bind(spec); err != nil {
			log.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, control.Listener) }()
	old, was := os.LookupEnv("FDBROKER_SOCKET")
	_ = os.Setenv("FDBROKER_SOCKET", path)
	return func() {
		cancel()
		<-served
		_, _, _ = control.Close(), s.Close(), os.RemoveAll(dir)
		if _ = os.Unsetenv("FDBROKER_SOCKET"); was {
			_ = os.Setenv("FDBROKER_SOCKET", old)
		}
	}
}

func ExampleDial() {
	stop := startExample("web=127.0.0.1:0") // elsewhere: fdbroker --bind web=127.0.0.1:9000
	defer stop()

	ln, err := broker.Dial("web")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	go func() {
		_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "hello")
		}))
	}()

	resp, err := http.Get("http://" + ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", ln.Name(), body)
	http.DefaultClient.CloseIdleConnections()
	// Output: web: hello
}

func ExampleDialer() {
	stop := startExample("web=127.0.0.1:0,max=1")
	defer stop()
	first, err := broker.Dial("web")
	if err != nil {
		log.Fatal(err)
	}

	_, err = broker.Dial("web")
	fmt.Println("no free place:", errors.Is(err, broker.ErrFull))

	// A Dialer can wait for a place, for a name and for a broker.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	time.AfterFunc(time.Millisecond, func() { _ = first.Close() })
	d := broker.Dialer{Wait: true}
	second, err := d.Dial(ctx, "web")
	if err != nil {
		log.Fatal(err)
	}
	defer second.Close()
	fmt.Println("the place is ours")
	// Output:
	// no free place: true
	// the place is ours
}

func ExampleDialer_DialAll() {
	stop := startExample("web=127.0.0.1:0", "adm=127.0.0.1:0")
	defer stop()

	var d broker.Dialer
	all, err := d.DialAll(context.Background(), "web", "adm")
	if err != nil {
		log.Fatal(err)
	}
	for _, ln := range all {
		defer ln.Close()
		fmt.Println(ln.Name(), ln.Addr().Network())
	}
	// Output:
	// web tcp
	// adm tcp
}

func ExampleDialPacket() {
	stop := startExample("log=udp://127.0.0.1:0")
	defer stop()

	pc, err := broker.DialPacket("log")
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	if _, err := pc.WriteTo([]byte("hello"), pc.LocalAddr()); err != nil { // to itself
		log.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, _, err := pc.ReadFrom(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", buf[:n])
	// Output: hello
}

func ExampleClient() {
	stop := startExample()
	defer stop()

	ctx := context.Background()
	var c broker.Client
	defer c.Close()
	if _, err := c.Bind(ctx, "web=127.0.0.1:0,backlog=16"); err != nil {
		log.Fatal(err)
	}
	list, err := c.List(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range list.Listeners {
		fmt.Printf("%s: %d of %d connections queued, %d holders\n", l.Name, *l.Queue, *l.Limit, l.Holders)
	}
	err = c.Unbind(ctx, "wbe")
	fmt.Println(err, errors.Is(err, broker.ErrUnknownName))
	// Output:
	// web: 0 of 16 connections queued, 0 holders
	// no listener is called "wbe"; there are: web true
}

// A new version that is ready asks the old one to leave. That finishes what it has.
func ExampleListener_Replace() {
	stop := startExample("web=127.0.0.1:0")
	defer stop()
	serve := func(version string) (*broker.Listener, <-chan error) {
		ln, err := broker.Dial("web")
		if err != nil {
			log.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, version)
		})}
		over := make(chan error, 1)
		go func() {
			err := srv.Serve(ln)                   // until it is closed, or asked to leave
			_ = srv.Shutdown(context.Background()) // finishes what was accepted
			over <- err
		}()
		return ln, over
	}

	_, oldOver := serve("v1") // elsewhere: another process
	ln, _ := serve("v2")
	defer ln.Close()
	drained, err := ln.Replace(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("asked to leave:", drained)
	fmt.Println(errors.Is(<-oldOver, broker.ErrDrained))
	// Output:
	// asked to leave: 1
	// true
}
