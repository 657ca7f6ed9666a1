//go:build linux

package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// next stops b, calls meanwhile, and returns a new broker at the same path, to which it has
// put the sockets of these names.
func (b *testBroker) next(meanwhile func(), names ...string) *testBroker {
	b.t.Helper()
	sockets := make([]broker.Socket, len(names))
	for i, name := range names {
		sockets[i] = b.get(name)
	}
	b.stop()
	meanwhile()
	next := startBrokerAt(b.t, b.path, server.Config{})
	for i, name := range names {
		if _, err := next.client().Put(context.Background(), broker.PutOptions{}, name, sockets[i].FD); err != nil {
			b.t.Fatal(err)
		}
	}
	return next
}

// holds waits until this process holds a listener by a grant that lasts as long as a
// connection, and returns that.
func (b *testBroker) holds(name string) (found protocol.Holder) {
	b.t.Helper()
	client := b.client()
	fdtest.Eventually(b.t, "the worker holds "+name, func() bool {
		list, err := client.List(context.Background())
		if err != nil {
			return false
		}
		i := slices.IndexFunc(list.Holders, func(h protocol.Holder) bool {
			return h.Connection && h.State == protocol.StateActive && slices.Contains(h.Names, name)
		})
		if i >= 0 {
			found = list.Holders[i]
		}
		return i >= 0
	})
	return found
}

// TestListenerOutlivesBroker: Accept goes on when the broker is replaced by another one, any
// number of times, and the Listener is a holder of that again.
func TestListenerOutlivesBroker(t *testing.T) {
	for name, spec := range streamSpecs(t) {
		if strings.Contains(spec, "://") && name != "abstract" {
			continue // a broker that stops removes the path
		}
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			ln := b.dial("web")
			was, grant := b.listener("web").Cookie, ln.Grant()
			over := accepting(ln, "worker")
			for range 3 {
				b = b.next(func() {
					if got := ask(t, ln.Addr()); got != "worker" {
						t.Errorf("without a broker: got %q", got)
					}
				}, "web")
				h := b.holds("web")
				if h.Generation != grant {
					t.Errorf("got %+v, want generation %d as before", h, grant)
				}
				if is := b.listener("web").Cookie; is != was {
					t.Errorf("the socket is another one")
				}
				if got := ask(t, ln.Addr()); got != "worker" {
					t.Errorf("got %q", got)
				}
			}
			fdtest.Eventually(t, "the listener knows its grant", func() bool { return ln.Grant() == b.holds("web").Grant })
			b.drain(broker.DrainOptions{}, "web") // its event is read from the new connection
			wantDrained(t, <-over)
		})
	}
}

// TestReplaceAfterRestart: a worker keeps its age across a restart of the broker, and does not
// replace itself.
func TestReplaceAfterRestart(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	b.dial("web")
	ln := b.dial("web")
	over := accepting(ln, "")
	b = b.next(func() {}, "web")
	b.holds("web")
	if _, err := ln.Replace(context.Background()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-over:
		t.Errorf("it has replaced itself: %v", err)
	default:
	}
	newer := b.dial("web")
	if n, err := newer.Replace(context.Background()); n < 1 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	wantDrained(t, <-over)
}

// TestClosedWhileBrokerIsLost: Close ends the search for another broker.
func TestClosedWhileBrokerIsLost(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0", "api=127.0.0.1:0", "dns=udp://127.0.0.1:0")
	ln := b.dial("web")
	over := accepting(ln, "")
	both, err := b.dialer().DialAll(context.Background(), "web", "api")
	if err != nil {
		t.Fatal(err)
	}
	bothOver := accepting(both[0], "")
	pc, err := b.dialer().DialPacket(context.Background(), "dns")
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, _, err := pc.ReadFrom(make([]byte, 1))
		read <- err
	}()
	b.stop()
	for _, c := range []io.Closer{ln, both[0], pc, both[1]} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, err := range []error{<-over, <-bothOver, <-read} {
		if !errors.Is(err, net.ErrClosed) || errors.Is(err, broker.ErrDrained) {
			t.Errorf("got %v", err)
		}
	}
}

// TestOneOfManyIsGone: if one of a grant's names is not bound any more, it is reclaimed for the
// others.
func TestOneOfManyIsGone(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "a=127.0.0.1:0", "b=127.0.0.1:0", "c=127.0.0.1:0")
	all, err := b.dialer().DialAll(context.Background(), "a", "b", "c")
	if err != nil {
		t.Fatal(err)
	}
	for _, ln := range all {
		defer ln.Close()
		go answer(ln, ln.Name())
	}
	_ = all[1].Close() // it is not reclaimed
	next := b.next(func() {}, "c")
	if h := next.holds("c"); !slices.Equal(h.Names, []string{"c"}) {
		t.Errorf("got %+v", h)
	}
	for _, ln := range []*broker.Listener{all[0], all[2]} {
		if got := ask(t, ln.Addr()); got != ln.Name() {
			t.Errorf("%s: got %q", ln.Name(), got)
		}
	}
}

// TestReplacedSocket: if the name is bound again, Accept returns what is queued at the old
// socket, and goes on with the new one.
func TestReplacedSocket(t *testing.T) {
	dir := fdtest.SocketDir(t)
	for _, c := range []struct{ name, was, is string }{
		{"tcp", "web=127.0.0.1:0", "web=127.0.0.1:0,backlog=7"},
		{"the same path", "web=unix://" + filepath.Join(dir, "u"), "web=unix://" + filepath.Join(dir, "u")},
		{"another network", "web=127.0.0.1:0", "web=unix://" + filepath.Join(dir, "v")},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart=%v", c.name, restart), func(t *testing.T) {
				fdtest.CheckLeaks(t)
				b := startBroker(t, c.was)
				ln := b.dial("web")
				accepted := make(chan net.Conn)
				more := make(chan struct{})
				over := make(chan error, 1)
				go func() {
					for range more {
						c, err := ln.Accept()
						if err != nil {
							over <- err
							return
						}
						accepted <- c
					}
				}()
				more <- struct{}{} // Accept waits at the old socket
				was := ln.Addr()
				first := connect(t, was)
				_ = (<-accepted).Close()
				read(t, first)
				var queued []net.Conn // they are not accepted yet
				for range 3 {
					queued = append(queued, connect(t, was))
				}
				if restart {
					b.stop()
					b = startBrokerAt(t, b.path, server.Config{}, c.is)
				} else {
					if err := b.server.Unbind("web"); err != nil {
						t.Fatal(err)
					}
					b.bind(c.is)
				}
				grant := b.holds("web").Grant
				fdtest.Eventually(t, "the listener has the new socket", func() bool { return ln.Grant() == grant })
				for i, conn := range queued {
					more <- struct{}{}
					a := <-accepted
					_, _ = io.WriteString(a, "queued")
					_ = a.Close()
					if got := read(t, conn); got != "queued" {
						t.Errorf("connection %d at the old socket got %q", i, got)
					}
				}
				more <- struct{}{}
				conn := connect(t, ln.Addr())
				_ = (<-accepted).Close()
				read(t, conn)
				if is := b.listener("web").Address; c.name != "the same path" && ln.Addr().String() != is {
					t.Errorf("it listens at %v, want %s", ln.Addr(), is)
				}
				close(more)
			})
		}
	}
}

// TestDrainedWithOldSocket: a drain loses nothing that is queued at the socket before, which nobody else has.
func TestDrainedWithOldSocket(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0", "dns=udp://127.0.0.1:0")
	ln, pc := b.dial("web"), b.dialPacket("dns")
	_ = ln.SetDeadline(time.Unix(1, 0))
	_ = pc.SetReadDeadline(time.Unix(1, 0))
	buf := make([]byte, 10)
	if _, err := ln.Accept(); !isTimeout(err) {
		t.Fatal(err)
	}
	if _, _, err := pc.ReadFrom(buf); !isTimeout(err) {
		t.Fatal(err)
	}
	for range 3 {
		connect(t, ln.Addr())
		send(t, connect(t, pc.LocalAddr()), "old")
	}
	if err := b.server.Unbind("web", "dns"); err != nil {
		t.Fatal(err)
	}
	b.bind("web=127.0.0.1:0", "dns=udp://127.0.0.1:0")
	fdtest.Eventually(t, "it has the new sockets", func() bool {
		return ln.Addr().String() == b.listener("web").Address && pc.LocalAddr().String() == b.listener("dns").Address
	})
	b.drain(broker.DrainOptions{}, "web", "dns")
	b.waitHolders("web", 0)
	b.waitHolders("dns", 0)
	for i := range 3 {
		c, err := ln.Accept()
		if err != nil {
			t.Fatalf("connection %d at the old socket: %v", i, err)
		}
		_ = c.Close()
		if n, _, err := pc.ReadFrom(buf); err != nil || string(buf[:n]) != "old" {
			t.Errorf("datagram %d at the old socket: got %q, %v", i, buf[:n], err)
		}
	}
	_, err := ln.Accept()
	wantDrained(t, err)
	_, _, err = pc.ReadFrom(buf)
	wantDrained(t, err)
}

// TestOldSocketDoesNotStarve: however much is queued at the old address, clients of the new one have their turn.
func TestOldSocketDoesNotStarve(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0", "dns=udp://127.0.0.1:0")
	ln, pc := b.dial("web"), b.dialPacket("dns")
	_ = ln.SetDeadline(time.Unix(1, 0))
	_ = pc.SetReadDeadline(time.Unix(1, 0))
	buf := make([]byte, 10)
	if _, err := ln.Accept(); !isTimeout(err) {
		t.Fatal(err)
	}
	if _, _, err := pc.ReadFrom(buf); !isTimeout(err) {
		t.Fatal(err)
	}
	was := ln.Addr().String()
	for range 10 {
		connect(t, ln.Addr())
		send(t, connect(t, pc.LocalAddr()), "old")
	}
	if err := b.server.Unbind("web", "dns"); err != nil {
		t.Fatal(err)
	}
	b.bind("web=127.0.0.1:0", "dns=udp://127.0.0.1:0")
	fdtest.Eventually(t, "it has the new sockets", func() bool {
		return ln.Addr().String() == b.listener("web").Address && pc.LocalAddr().String() == b.listener("dns").Address
	})
	_ = ln.SetDeadline(time.Time{})
	_ = pc.SetReadDeadline(time.Time{})
	for range 2 {
		connect(t, ln.Addr())
		send(t, connect(t, pc.LocalAddr()), "new")
	}
	var accepted, read []string
	for range 12 {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		accepted = append(accepted, map[bool]string{true: "old", false: "new"}[c.LocalAddr().String() == was])
		_ = c.Close()
		n, _, err := pc.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		read = append(read, string(buf[:n]))
	}
	for _, got := range [][]string{accepted, read} {
		if !slices.Contains(got[:2], "new") || !slices.Contains(got[2:4], "new") || got[11] != "old" {
			t.Errorf("got %q, want both in turn", got)
		}
	}
	over := accepting(ln, "hello") // the deadline of the new one is the listener's again
	if got := ask(t, ln.Addr()); got != "hello" {
		t.Errorf("got %q", got)
	}
	_ = ln.Close()
	if err := <-over; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestReplacedSocketWhileAccepting is the same with many calls of Accept that wait all the time.
func TestReplacedSocketWhileAccepting(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	ln := b.dial("web")
	var over []<-chan error
	for range 4 {
		over = append(over, accepting(ln, "worker"))
	}
	for range 20 {
		if err := b.server.Unbind("web"); err != nil {
			t.Fatal(err)
		}
		b.bind("web=127.0.0.1:0")
		address := b.listener("web").Address
		fdtest.Eventually(t, "the listener has the new socket", func() bool { return ln.Addr().String() == address })
		if got := ask(t, ln.Addr()); got != "worker" {
			t.Errorf("got %q", got)
		}
	}
	fdtest.Eventually(t, "the old sockets are closed", func() bool { return listeningAt(t) == 2 }) // except the broker's and the worker's
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	for _, over := range over {
		if err := <-over; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}

// listeningAt returns how many descriptors of listening TCP sockets this process has.
func listeningAt(t *testing.T) (n int) {
	t.Helper()
	for i := range 256 {
		listens, err := unix.GetsockoptInt(i, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		domain, derr := unix.GetsockoptInt(i, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err == nil && derr == nil && listens == 1 && domain != unix.AF_UNIX {
			n++
		}
	}
	return n
}

func TestReplacedPacketSocket(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "dns=udp://127.0.0.1:0")
	pc, err := b.dialer().DialPacket(context.Background(), "dns")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if err := pc.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	got := func() string {
		t.Helper()
		buf := make([]byte, 100)
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pc.WriteTo(buf[:n], from); err != nil {
			t.Error(err)
		}
		return string(buf[:n])
	}
	if _, _, err := pc.ReadFrom(nil); !isTimeout(err) {
		t.Errorf("got %v", err)
	}
	old := connect(t, pc.LocalAddr())
	for _, text := range []string{"one", "two"} {
		if _, err := io.WriteString(old, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.server.Unbind("dns"); err != nil {
		t.Fatal(err)
	}
	b.bind("dns=udp://127.0.0.1:0")
	is := b.listener("dns").Address
	fdtest.Eventually(t, "it is at the new address", func() bool { return pc.LocalAddr().String() == is })
	if first, second := got(), got(); first != "one" || second != "two" {
		t.Errorf("got %q, %q", first, second)
	}
	if _, _, err := pc.ReadFrom(nil); !isTimeout(err) { // the deadline holds for the new socket too
		t.Errorf("got %v", err)
	}
	if err := pc.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	c := connect(t, pc.LocalAddr())
	if _, err := io.WriteString(c, "new"); err != nil {
		t.Fatal(err)
	}
	if text := got(); text != "new" {
		t.Errorf("got %q", text)
	}
	buf := make([]byte, 100)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "new" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// TestHealed: Accept goes on after another worker has shut the socket down: a TCP socket the
// broker makes listen again, and a Unix one an operator binds again.
func TestHealed(t *testing.T) {
	for name, spec := range streamSpecs(t) {
		if name == "abstract" {
			continue // its address is free only after ln has closed the old socket
		}
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			ln := b.dial("web")
			over := []<-chan error{accepting(ln, "worker"), accepting(ln, "worker")}
			if got := ask(t, ln.Addr()); got != "worker" {
				t.Errorf("got %q", got)
			}
			for i := range 5 {
				b.shutDown("web")
				if strings.HasPrefix(ln.Addr().Network(), "unix") {
					if err := b.server.Unbind("web"); err != nil {
						t.Fatal(err)
					}
					b.bind(spec)
				}
				fdtest.Eventually(t, fmt.Sprintf("it answers again (%d)", i), func() bool {
					c, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
					if err != nil {
						return false
					}
					got, err := io.ReadAll(c)
					_ = c.Close()
					return err == nil && string(got) == "worker"
				})
			}
			if err := ln.Close(); err != nil {
				t.Error(err)
			}
			for _, over := range over {
				if err := <-over; !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
			}
		})
	}
}

// shutDown shuts a listener's socket down, as a rogue worker does.
func (b *testBroker) shutDown(name string) {
	b.t.Helper()
	client := broker.Client{Socket: b.path}
	defer client.Close()
	sockets, err := client.Get(context.Background(), broker.GetOptions{Wait: true}, name)
	if err != nil {
		b.t.Fatal(err)
	}
	defer sockets[0].FD.Close()
	if err := sockets[0].FD.Control(func(fd uintptr) {
		if err := unix.Shutdown(int(fd), unix.SHUT_RDWR); err != nil {
			b.t.Error(err)
		}
	}); err != nil {
		b.t.Fatal(err)
	}
}

// TestNotHealed: if no broker repairs the socket, Accept returns an error in the end.
func TestNotHealed(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	ln := b.dial("web")
	over := accepting(ln, "")
	rogue := b.get("web")
	b.stop()
	_ = rogue.FD.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	begun := time.Now()
	if err := <-over; !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begun); took < time.Second {
		t.Errorf("it gave up after %v", took)
	}
}

// called reads a Get that reclaims a grant.
func (c fakeConn) called() (p protocol.GetParameters) {
	c.t.Helper()
	var b []byte
	for one := make([]byte, 1); ; b = append(b, one[0]) {
		if _, err := c.conn.Read(one); err != nil {
			c.t.Fatal(err)
		}
		if one[0] == 0 {
			break
		}
	}
	var call struct {
		Method     string
		More       bool
		Parameters protocol.GetParameters
	}
	if err := json.Unmarshal(b, &call); err != nil || call.Method != protocol.MethodGet || !call.More {
		c.t.Errorf("got %s: %v", b, err)
	}
	return call.Parameters
}

// accepts returns a listener whose broker is f, and its first connection.
func (f *fake) accepts() (ln *broker.Listener, c fakeConn, over <-chan error) {
	f.t.Helper()
	result := later(context.Background(), f.dialer(), "web")
	c = f.accept()
	c.readCall()
	c.send(sockets("web@0"), 1)
	d := <-result
	if d.err != nil {
		f.t.Fatal(d.err)
	}
	f.t.Cleanup(func() { _ = d.ln.Close() })
	return d.ln, c, accepting(d.ln, "")
}

const (
	fullReply     = `{"error":"io.fdbroker.Full","parameters":{"name":"web","max":1,"holders":[]}}` + end
	unknownReply  = `{"error":"io.fdbroker.UnknownName","parameters":{"name":"web"}}` + end
	deniedReply   = `{"error":"io.fdbroker.Denied","parameters":{"name":"web","uid":1,"allow":[]}}` + end
	replacedReply = `{"error":"io.fdbroker.Replaced","parameters":{"name":"web","generation":7}}` + end
	drainReply    = `{"parameters":{"grant":7,"event":"drain"},"continues":true}` + end
)

// TestReclaimIsAnswered: what a listener does after each answer of the next broker.
func TestReclaimIsAnswered(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := startFake(t)
	_, c, over := f.accepts()
	wants := func(wait bool) fakeConn {
		t.Helper()
		c := f.accept()
		p := c.called()
		if p.Resume != 7 || p.Generation != 7 || p.Wait != wait || !slices.Equal(p.Names, []string{"web"}) || p.Blocking == nil || *p.Blocking {
			t.Errorf("got %+v", p)
		}
		return c
	}
	_ = c.conn.Close()
	c = wants(false)
	_ = c.conn.Close() // this broker goes at once too
	c = wants(false)
	c.send(fullReply, 0)
	c = wants(true) // for a place
	_ = c.conn.Close()
	c = wants(false)
	c.send(unknownReply, 0)
	handBack := f.accept()
	if got := handBack.readCall(); got != protocol.MethodAttach {
		t.Errorf("got %s", got)
	}
	handBack.send(unknownReply, 0) // the broker does not want it
	c = wants(true)                // for the name
	_ = c.conn.Close()
	c = wants(false)
	c.send(deniedReply, 0) // for now
	c = wants(false)
	c.send(sockets("web@0"), 1)
	c.waitRead()
	c.send(`{"parameters":{}}`+end, 0) // nothing
	c.send("rubbish"+end, 0)
	c = wants(false)
	c.send(sockets("web@0"), 1)
	c.waitRead()
	c.send(drainReply, 0)
	wantDrained(t, <-over)
}

// TestReplacedWhileAway: a deploy that was replaced while the broker was lost is over.
func TestReplacedWhileAway(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := startFake(t)
	_, c, over := f.accepts()
	_ = c.conn.Close()
	c = f.accept()
	c.called()
	c.send(replacedReply, 0)
	wantDrained(t, <-over)
}

// TestReclaimPauses: delays grow if a broker ends each connection at once.
func TestReclaimPauses(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := startFake(t)
	ln, c, _ := f.accepts()
	begun := time.Now()
	const calls = 7
	for range calls {
		_ = c.conn.Close()
		c = f.accept()
		c.called()
		c.send(sockets("web@0"), 1)
		c.waitRead()
	}
	if took := time.Since(begun); took < 300*time.Millisecond { // 10 + 20 + ... + 320 ms
		t.Errorf("%d connections in %v", calls, took)
	}
	_ = ln.Close()
}

// TestGetWaitSurvivesBroker: a Get that waits goes on with the next broker.
func TestGetWaitSurvivesBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t)
	got := make(chan error)
	client := b.client()
	go func() {
		sockets, err := client.Get(context.Background(), broker.GetOptions{Wait: true}, "web")
		for _, s := range sockets {
			_ = s.FD.Close()
		}
		got <- err
	}()
	b.waitWaiting("web", 1)
	for range 3 {
		b.stop()
		b = startBrokerAt(t, b.path, server.Config{})
		b.waitWaiting("web", 1)
	}
	b.bind("web=127.0.0.1:0")
	if err := <-got; err != nil {
		t.Error(err)
	}
}
