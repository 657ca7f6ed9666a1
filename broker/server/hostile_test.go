package server_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// short is a CallTimeout that a slow client reaches soon.
var short = fdtest.Long(100 * time.Millisecond)

// unhurried is a CallTimeout that other clients keep on a busy machine, too.
var unhurried = 5 * short

// A malformed call gets an error reply, is logged with its sender, and ends the connection. Other
// connections go on.
func TestMalformedCalls(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{MaxMessage: 1024}, "a=127.0.0.1:0")
	good := b.client(t)
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"no JSON":          {"hello\x00", protocol.ErrMalformed},
		"half JSON":        {`{"method":"io.fdbroker.List"` + "\x00", protocol.ErrMalformed},
		"two in one":       {`{"method":"a.b"}{"method":"a.b"}` + "\x00", protocol.ErrMalformed},
		"invalid UTF-8":    {"{\"method\":\"io.fdbroker.\xff\"}\x00", protocol.ErrMalformed},
		"empty":            {"\x00", protocol.ErrMalformed},
		"blanks":           {" \n\x00", protocol.ErrMalformed},
		"a list":           {"[]\x00", protocol.ErrMalformed},
		"null":             {"null\x00", protocol.ErrMalformed},
		"no method":        {"{}\x00", protocol.ErrMalformed},
		"method no string": {`{"method":1}` + "\x00", protocol.ErrMalformed},
		"deep":             {strings.Repeat("[", 1000) + "\x00", protocol.ErrMalformed},
		"oversized":        {strings.Repeat("x", 1024), protocol.ErrLimitReached},
		"oversized call":   {`{"method":"` + strings.Repeat("x", 2000) + `"}` + "\x00", protocol.ErrLimitReached},
	} {
		t.Run(name, func(t *testing.T) {
			bad := b.client(t)
			bad.raw(c.text)
			if err := bad.refused(); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			bad.ended()
		})
		good.alive()
	}
	if n := len(b.logs.lines(`"refused"`, fmt.Sprintf(`"pid":%d,"uid":%d`, os.Getpid(), os.Getuid()))); n != 13 {
		t.Errorf("%d refusals are logged with pid and uid, want 13", n)
	}
}

func TestUnknownMethods(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	c := b.client(t)
	for _, name := range []string{"io.fdbroker.None", "io.fdbroker.get", "org.varlink.service.None"} {
		if e, ok := errors.AsType[*protocol.MethodNotFoundError](c.call(name, nil, nil)); !ok || e.Method != name {
			t.Errorf("%s: %v", name, e)
		}
	}
	for name, want := range map[string]string{"x": "x", "a.b": "a", "io.fdbroker.more.Get": "io.fdbroker.more", ".": ""} {
		if e, ok := errors.AsType[*protocol.InterfaceNotFoundError](c.call(name, nil, nil)); !ok || e.Interface != want {
			t.Errorf("%s: %v", name, e)
		}
	}
	c.alive()
	long := "io.fdbroker." + strings.Repeat("x", 60_000)
	if err := c.call(long, nil, nil); err == nil {
		t.Error("no error")
	}
	for _, line := range b.logs.lines("refused") {
		if len(line) > 2000 {
			t.Errorf("a log event has %d bytes", len(line))
		}
	}
}

// Descriptors that the broker has not asked for do not get in: the kernel refuses to send them if it can,
// otherwise the broker drops them.
func TestUnwantedDescriptors(t *testing.T) {
	fdtest.CheckLeaks(t)
	t.Run("guarded", func(t *testing.T) { unwantedDescriptors(t, start(t, server.Config{}, "a=127.0.0.1:0")) })
	t.Run("unguarded", func(t *testing.T) {
		unwantedDescriptors(t, startOn(t, server.Config{}, unguard, "a=127.0.0.1:0"))
	})
}

func unwantedDescriptors(t *testing.T, b *broker) {
	good := b.client(t)
	for _, n := range []int{1, scmrights.MaxFDs} {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		reader, writer := os.NewFile(uintptr(p[0]), "reader"), scmrights.NewFD(p[1])
		fds := make([]*scmrights.FD, n)
		for i := range fds {
			fds[i] = writer
		}
		bad := b.client(t)
		err := bad.conn.Send(encode(t, get("a")), fds...)
		switch {
		case errors.Is(err, unix.EPERM): // SO_PASSRIGHTS, Linux 6.16
			bad.alive()
		case err != nil:
			t.Errorf("%d descriptors: %v", n, err)
		default:
			if err := bad.refused(); !errors.Is(err, protocol.ErrMalformed) {
				t.Errorf("%d descriptors: %v", n, err)
			}
			bad.ended()
		}
		_ = writer.Close()
		if n, err := reader.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("the broker keeps a descriptor: read %d, %v", n, err)
		}
		_ = reader.Close()
		good.alive()
	}
}

// A call has to be complete in time, in whatever parts it comes.
func TestSlowClients(t *testing.T) {
	for name, behave := range map[string]func(*client, <-chan struct{}){
		"sends nothing":   func(*client, <-chan struct{}) {},
		"half a message":  func(c *client, _ <-chan struct{}) { c.raw(`{"method":"io.fd`) },
		"later, half one": func(c *client, _ <-chan struct{}) { c.alive(); c.raw(`{"method":"io.fd`) },
		"half, behind a whole one": func(c *client, _ <-chan struct{}) {
			c.raw(`{"method":"org.varlink.service.GetInfo"}` + "\x00" + `{"meth`)
			c.reply()
		},
		"byte by byte": func(c *client, over <-chan struct{}) {
			for c.conn.Send([]byte{' '}) == nil {
				select {
				case <-over:
					return
				case <-time.After(short / 20):
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := start(t, server.Config{CallTimeout: short}, "a=127.0.0.1:0")
			bad := b.client(t)
			over := make(chan struct{})
			var wg sync.WaitGroup
			wg.Add(1)
			if name == "byte by byte" {
				go func() { defer wg.Done(); behave(bad, over) }()
			} else {
				behave(bad, over)
				wg.Done()
			}
			b.client(t).alive()
			if err := bad.refused(); !errors.Is(err, protocol.ErrLimitReached) {
				t.Errorf("got %v", err)
			}
			bad.ended()
			close(over)
			wg.Wait()
		})
	}
}

// The limit of time is for each call by itself: a client that sends one call after the other is not slow.
func TestNeverPausingIsNotSlow(t *testing.T) {
	fdtest.CheckLeaks(t)
	const limit = 400 * time.Millisecond
	b := start(t, server.Config{CallTimeout: limit})
	c := b.client(t)
	message := string(encode(t, method(protocol.MethodGetInfo, nil)))
	c.raw(message[:5])
	for end := time.Now().Add(3 * limit); time.Now().Before(end); {
		c.raw(message[5:] + message[:5])
		if r, _ := c.reply(); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

// An idle client may stay, after its first call.
func TestIdleClientsStay(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{CallTimeout: short})
	c := b.client(t)
	c.alive()
	bad := b.client(t) // reaches the limit after c would have
	bad.refused()
	c.alive()
}

// A client that sends calls and never reads is given up once its replies do not fit into the socket.
func TestNeverReading(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{CallTimeout: short}, "a=127.0.0.1:0")
	bad := b.client(t)
	var err error
	for m := encode(t, method(protocol.MethodGetInterfaceDescription, protocol.InterfaceParameters{Interface: protocol.InterfaceName})); err == nil; {
		err = bad.conn.Send(m)
	}
	if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v", err)
	}
	b.client(t).alive()
	// Nothing comes behind the reply that was cut off.
	for {
		if _, _, err := bad.next(); err != nil {
			break
		}
	}
	if rest, ok := bad.conn.Next(); ok {
		t.Errorf("behind it: %s", rest.Bytes)
	}
	fdtest.Eventually(t, "it is logged", func() bool { return len(b.logs.lines("refused", "reply")) == 1 })
}

// A client that sends another call and never reads the descriptors that it was sent is given up, too.
func TestNeverReadingDescriptors(t *testing.T) {
	for name, ask := range map[string]func(*client){
		"at once":  func(c *client) { c.send(get("a"), get("a"), get("a")) },
		"in turn":  func(c *client) { c.send(get("a")); c.unread(); c.send(get("a")); c.send(get("a")) },
		"to watch": func(c *client) { c.send(get("a")); c.unread(); c.send(watch) },
		"after Wait": func(c *client) {
			c.send(get("a"))
			c.unread()
			c.send(getOnce(protocol.GetParameters{Names: []string{"a"}, Wait: true}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := start(t, server.Config{CallTimeout: unhurried}, "a=127.0.0.1:0")
			bad := b.client(t)
			ask(bad)
			fdtest.Eventually(t, "it is disconnected", func() bool { return hungUp(t, bad.uc) })
			if lines := b.wrongs(); len(lines) != 1 {
				t.Errorf("logged: %q", lines)
			}
			if _, fds := bad.got(); len(fds) != 1 {
				t.Errorf("%d descriptors", len(fds))
			}
			if err := bad.refused(); !errors.Is(err, protocol.ErrLimitReached) {
				t.Error(err)
			}
			bad.ended()
		})
	}
}

// A client that sends nothing more may take any time to read its replies, whatever becomes of the listeners
// meanwhile.
func TestReadingLate(t *testing.T) {
	fdtest.CheckLeaks(t)
	names := []string{"a", "b", "c", "d", "e"} // more than the fast path of Get hands out
	b := start(t, server.Config{CallTimeout: unhurried}, "a=127.0.0.1:0", "b=127.0.0.1:0", "c=127.0.0.1:0", "d=127.0.0.1:0", "e=127.0.0.1:0")
	few, many, held := b.client(t), b.client(t), b.client(t)
	few.send(get("a"))
	many.send(get(names...))
	held.send(getMore(protocol.GetParameters{Names: names}))
	for _, c := range []*client{few, many, held} {
		c.unread()
	}
	if err := b.client(t).call(protocol.MethodDrain, protocol.DrainParameters{Names: []string{"a"}}, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first may end before the others are late
		b.client(t).refused()
	}
	for c, want := range map[*client]int{few: 1, many: len(names), held: len(names)} {
		if _, fds := c.got(); len(fds) != want {
			t.Errorf("%d descriptors, want %d", len(fds), want)
		}
	}
	if g, _ := held.got(); g.Event != protocol.EventDrain {
		t.Errorf("got %+v", g)
	}
	few.alive()
	many.alive()
}

// An error that ends the connection does not wait until descriptors are read.
func TestGarbageBehindUnreadDescriptors(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	bad := b.client(t)
	bad.raw(string(encode(t, get("a"))) + "garbage\x00")
	fdtest.Eventually(t, "it is refused", func() bool { return len(b.logs.lines("refused")) == 1 })
	fdtest.Eventually(t, "it is disconnected", func() bool { return hungUp(t, bad.uc) })
	if _, fds := bad.got(); len(fds) != 1 {
		t.Errorf("%d descriptors", len(fds))
	}
	if err := bad.refused(); !errors.Is(err, protocol.ErrMalformed) {
		t.Error(err)
	}
	bad.ended()
}

func hungUp(t testing.TB, uc *net.UnixConn) (is bool) {
	t.Helper()
	rc, err := uc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = rc.Control(func(fd uintptr) { is = hasHungUp(fd) })
	return is
}

func hasHungUp(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1
}

// hangsUp waits until the broker has closed its end, and reads nothing. It reports false if that has not
// come in time.
func hangsUp(uc *net.UnixConn) bool {
	rc, err := uc.SyscallConn()
	if err != nil {
		return false
	}
	_ = uc.SetReadDeadline(time.Now().Add(patience))
	return rc.Read(hasHungUp) == nil
}

// TestMuchBehindAGetThatWaits: the broker does not read what a client sends while its call waits, so that
// costs it nothing, and answers it in order once the call has ended.
func TestMuchBehindAGetThatWaits(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{MaxMessage: 1024})
	c := b.client(t)
	c.send(getOnce(protocol.GetParameters{Names: []string{"a"}, Wait: true}))
	b.waiting(t, 1)
	sent := 0
	_ = c.uc.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for m := encode(t, method(protocol.MethodGetInfo, nil)); ; sent++ {
		if _, err := c.uc.Write(m); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if sent < 100 {
		t.Fatalf("only %d calls fit into the socket's buffer", sent)
	}
	b.bind(t, "a=127.0.0.1:0")
	c.got()
	for range sent {
		if r, _ := c.reply(); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if n := len(b.logs.lines("refused")); n != 0 {
		t.Errorf("%d refusals", n)
	}
}

// waiting waits until so many requests wait.
func (b *broker) waiting(t testing.TB, n int) {
	t.Helper()
	fdtest.Eventually(t, fmt.Sprintf("%d requests wait", n), func() bool {
		waiting := 0
		for _, h := range b.client(t).list().Holders {
			if h.State == protocol.StateWaiting || h.State == protocol.StateStandby {
				waiting++
			}
		}
		return waiting == n
	})
}

// FuzzConnection sends a broker any bytes. It survives, serves others, and keeps nothing.
func FuzzConnection(f *testing.F) {
	f.Add([]byte("{\"method\":\"io.fdbroker.Get\",\"parameters\":{\"names\":[\"a\"]}}\x00"), uint8(0))
	f.Add([]byte("{\"method\":\"io.fdbroker.Get\",\"parameters\":{\"names\":[\"a\"],\"blocking\":true,\"wait\":true},\"more\":true}\x00{\"method\":\"io.fdbroker.List\"}\x00"), uint8(7))
	f.Add([]byte("{\"method\":\"io.fdbroker.Get\",\"parameters\":{\"names\":[\"b\"],\"wait\":true}}\x00\x00"), uint8(1))
	f.Add([]byte("{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"oneway\":true,\"parameters\":{\"interface\":\"io.fdbroker\"}}\x00{"), uint8(3))
	f.Add([]byte("{\"method\":\"io.fdbroker.Unbind\",\"parameters\":{\"names\":[\"x\"]}}\x00"), uint8(0))
	f.Add([]byte("{\"method\":\"io.fdbroker.Watch\",\"more\":true}\x00{\"method\":\"io.fd"), uint8(255))
	f.Add([]byte("{\"method\":\"io.fdbroker.Deploy\",\"parameters\":{\"names\":[\"a\"],\"generation\":7},\"more\":true}\x00"), uint8(255))
	f.Add([]byte("{\"method\":\"io.fdbroker.Drain\",\"parameters\":{\"names\":[\"a\"],\"before\":1}}\x00"), uint8(31))
	f.Add([]byte("{\"method\":\"io.fdbroker.Put\",\"parameters\":{\"name\":\"x\"}}\x00{\"method\":\"io.fdbroker.Attach\",\"parameters\":{\"name\":\"a\"}}\x00"), uint8(255))
	f.Add([]byte("{\"method\":\"io.fdbroker.Reload\"}\x00{\"method\":\"io.fdbroker.Upgrade\"}\x00{\"method\":\"org.varlink.service.GetInfo\"}\x00"), uint8(255))
	b := start(f, server.Config{MaxMessage: 4096}, "a=127.0.0.1:0")
	f.Fuzz(func(t *testing.T, text []byte, piece uint8) {
		if strings.Contains(strings.ToLower(string(text)), "bind") && !strings.Contains(string(text), `"x"`) {
			return // it would bind addresses outside the test
		}
		good := b.client(t)
		good.alive()
		base := len(fdtest.OpenFDs(t))
		bad, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: b.path})
		if err != nil {
			t.Fatal(err)
		}
		for size := int(piece) + 1; len(text) > 0; {
			n, err := bad.Write(text[:min(size, len(text))])
			if err != nil {
				break
			}
			text = text[n:]
		}
		good.alive()
		_ = bad.Close()
		fdtest.Eventually(t, "descriptors are back", func() bool {
			return len(fdtest.OpenFDs(t)) <= base+1 // a pidfd of this process, with its grant
		})
	})
}
