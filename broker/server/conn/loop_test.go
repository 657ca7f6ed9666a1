package conn

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// TestStopAtAnyMoment: the loop ends whenever in a turn it is told to, also if it reads the interrupt
// together with another one.
func TestStopAtAnyMoment(t *testing.T) {
	for name, stop := range map[string]func(*rig){
		"while it waits": func(r *rig) {},
		"before it serves, with another interrupt": func(r *rig) {
			r.loop.queue.interrupt()
			r.loop.Stop()
			r.loop.queue.interrupt()
		},
		"by a function that was posted": func(r *rig) {
			r.loop.Post(r.loop.Stop)
		},
		"by a function that such a function has posted": func(r *rig) {
			r.loop.Post(func() { r.loop.Post(r.loop.Stop) })
		},
		"at the end of a turn": func(r *rig) {
			r.loop.Post(func() { r.loop.Post(func() { r.loop.Post(r.loop.Stop) }) })
		},
		"with an interrupt in the same turn": func(r *rig) {
			r.loop.Post(func() {
				r.loop.queue.interrupt()
				r.loop.Stop()
			})
		},
		"between the interrupt and its turn": func(r *rig) {
			r.loop.Post(func() {
				r.loop.queue.interrupt()
				go r.loop.Stop()
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r := newRig(t, Config{})
			ln := r.listen()
			stop(r)
			go func() {
				r.left, r.err = r.loop.Serve(ln)
				close(r.served)
			}()
			if name == "while it waits" {
				r.dial().alive()
				r.loop.Stop()
			}
			select {
			case <-r.served:
			case <-time.After(patience):
				t.Error("it was told to stop, and waits for something to happen")
				r.loop.queue.interrupt()
				<-r.served
			}
			if r.left != 0 || r.err != nil {
				t.Errorf("%d connections left, %v", r.left, r.err)
			}
		})
	}
}

// TestStopAmongInterrupts tells a loop to stop while others interrupt it, again and again.
func TestStopAmongInterrupts(t *testing.T) {
	fdtest.CheckLeaks(t)
	for range 200 {
		r := newRig(t, Config{})
		ln := r.listen()
		go func() {
			r.left, r.err = r.loop.Serve(ln)
			close(r.served)
		}()
		var posting sync.WaitGroup
		posted := 0
		for i := range 3 {
			posting.Go(func() {
				for range rand.IntN(30) {
					r.loop.Post(func() { posted++ })
				}
				if i == 0 {
					r.loop.Stop()
				}
			})
		}
		posting.Wait()
		select {
		case <-r.served:
		case <-time.After(patience):
			t.Fatal("it was told to stop, and waits for something to happen")
		}
		r.loop.Close()
		_ = ln.Close()
	}
}

// TestPost: each function that is posted is called once, in order.
func TestPost(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := serve(t, Config{}, false)
	const each = 300
	var got [3][]int
	var posting sync.WaitGroup
	for i := range got {
		posting.Go(func() {
			for n := range each {
				r.loop.Post(func() {
					if n%2 == 0 {
						got[i] = append(got[i], n)
						return
					}
					r.loop.Post(func() { got[i] = append(got[i], n) })
				})
			}
		})
	}
	posting.Wait()
	for i := range got {
		var now []int
		fdtest.Eventually(t, "all was called", func() bool {
			r.on(func() { now = slices.Clone(got[i]) })
			return len(now) >= each
		})
		for k := range each {
			if !slices.Contains(now, k) {
				t.Fatalf("%d was not called: %v", k, now)
			}
		}
		even := slices.DeleteFunc(slices.Clone(now), func(n int) bool { return n%2 == 1 })
		if !slices.IsSorted(even) || len(now) != each {
			t.Errorf("called %v", now)
		}
	}
}

// TestManyComeAndGo: connections that come and go while calls are parked leave nothing behind, however
// they go.
func TestManyComeAndGo(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprintf("guarded=%t", guarded), func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r := serve(t, Config{}, guarded)
			const stay, many = 40, 200
			var parked []*client
			for i := range stay {
				c := r.dial()
				c.say([]string{"park", "poll", "patient 100"}[i%3])
				parked = append(parked, c)
			}
			r.counted("calls are parked", stay, func() int { return len(r.parked) })
			_, writer := pipe(t)
			var coming sync.WaitGroup
			for i := range many {
				c := r.dial()
				coming.Go(func() {
					defer c.Close()
					switch i % 10 {
					case 0: // says nothing
					case 1:
						c.alive()
					case 2:
						c.say("echo a", "echo b", "echo c") // and reads none
					case 3:
						c.say("park")
					case 4:
						c.say("park", "echo behind")
						_ = c.CloseWrite()
						c.over()
					case 5:
						_, _ = c.Write([]byte("echo half"))
					case 6:
						c.say("window")
						c.answers("open")
					case 7:
						c.say("window")
						c.answers("open")
						if err := c.send("take\x00", writer); err != nil {
							t.Error(err)
						}
						c.answers("1")
					case 8:
						c.say("big 1000000")
						_, _ = c.Read(make([]byte, 10))
					case 9:
						c.say("poll")
						c.answers("polling")
						c.say("echo behind")
						c.answers("polled", "behind")
					}
				})
			}
			coming.Wait()
			r.counted("connections are closed", many, func() int { return r.closed })
			for i, c := range parked {
				if i%2 == 0 {
					_ = c.Close()
				}
			}
			r.counted("connections are closed", many+stay/2, func() int { return r.closed })
			r.release()
			for i, c := range parked {
				if i%2 == 0 {
					continue
				}
				switch i % 3 {
				case 1:
					c.answers("polling", "polled")
				case 2:
					c.reply()
				}
				c.alive()
				_ = c.Close()
			}
			r.empty()
			r.count(func() {
				if r.ended < stay || r.stopping > 0 {
					t.Errorf("%d parked calls ended, %d of them because the loop stops", r.ended, r.stopping)
				}
			})
		})
	}
}

// TestParkedPeerSendsMore: calls behind one that goes on wait, cost the loop nothing, and are answered
// afterwards. If the client closes its end, the call ends.
func TestParkedPeerSendsMore(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := serve(t, Config{CallTimeout: timeout}, true)
	c, other := r.dial(), r.dial()
	c.say("park")
	r.counted("call is parked", 1, func() int { return len(r.parked) })
	c.say("echo 1", "echo 2")
	for range 200 {
		other.alive()
	}
	time.Sleep(timeout * 3 / 2) // so much time is no call's
	r.count(func() {
		if r.steps > 5 {
			t.Errorf("the loop has looked %d times at a call that nobody has woken", r.steps)
		}
		if r.ended > 0 || r.closed > 0 {
			t.Errorf("%d parked calls have ended, %d connections", r.ended, r.closed)
		}
	})
	r.release()
	c.answers("1", "2")
	c.say("park", "echo 3")
	r.counted("call is parked", 1, func() int { return len(r.parked) })
	r.count(func() { r.steps = 0 })
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.over()
	r.counted("parked calls have ended", 2, func() int { return r.ended })
	r.counted("connection has ended", 1, func() int { return r.closed })
	r.count(func() {
		if len(r.refused) > 0 || r.steps > 5 || r.stopping > 0 {
			t.Errorf("blamed for %v; looked at %d times; stopping %d", r.refused, r.steps, r.stopping)
		}
	})
	other.alive()

	// A call that ends with the next input ends with the end of the input, too.
	c = r.dial()
	c.say("poll")
	c.answers("polling")
	_ = c.CloseWrite()
	c.answers("polled")
	c.over()
	_ = other.Close()
	r.empty()
}

// TestUnaskedDescriptors: if the kernel lets anybody send descriptors, the calls before them are answered,
// and then the connection is refused.
func TestUnaskedDescriptors(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := serve(t, Config{}, false)
	for _, n := range []int{1, 2, scmrights.MaxFDs} {
		c := r.dial()
		reader, writer := pipe(t)
		c.say("echo 1", "echo 2")
		if n > 1 { // these are refused with all that is read together with them
			c.answers("1", "2")
		}
		if err := c.send("echo 3\x00", slices.Repeat([]*scmrights.FD{writer}, n)...); err != nil {
			t.Fatal(err)
		}
		_ = writer.Close()
		if n == 1 {
			c.answers("1", "2")
		}
		if err := c.isRefused(); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("%d descriptors: %v", n, err)
		}
		c.over()
		gone(t, reader)
	}
	r.count(func() {
		for _, err := range r.refused {
			if !errors.Is(err, errUninvited) {
				t.Errorf("refused for %v", err)
			}
		}
		if len(r.refused) != 3 {
			t.Errorf("%d refusals", len(r.refused))
		}
	})
	r.empty()
}

// TestUnaskedDescriptorThatLingers: a descriptor whose close blocks holds up the connection that it came by,
// no other one, and the end of the loop only for a while.
func TestUnaskedDescriptorThatLingers(t *testing.T) {
	for name, count := range map[string]int{"the loop closes it": 1, "the kernel closes it": 2} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r := serve(t, Config{}, false)
			c, other := r.dial(), r.dial()
			other.alive()
			fd := lingering(t)
			_, writer := pipe(t)
			fds := []*scmrights.FD{fd}
			if count > 1 {
				fds = []*scmrights.FD{writer, fd} // there is room for the first
			}
			c.alive()
			var err error
			r.on(func() { // the loop reads later: the test must not be the last to close it
				err = c.send("echo 2\x00", fds...)
				_ = fd.Close()
			})
			if err != nil {
				t.Fatal(err)
			}
			if count == 1 { // the kernel tells of more only once it has closed them
				if err := c.isRefused(); !errors.Is(err, protocol.ErrMalformed) {
					t.Errorf("got %v", err)
				}
			} else {
				fdtest.Eventually(t, "it is being read", func() (is bool) {
					r.on(func() {
						for _, c := range r.loop.conns {
							is = is || c.running
						}
					})
					return is
				})
			}
			for range 50 {
				other.alive()
			}
			_ = other.Close()
			fdtest.Eventually(t, "the others have gone", func() (is bool) {
				r.on(func() { is = r.loop.clients == 1 })
				return is
			})
			r.stop() // although the close takes 3000 seconds
			if r.left != 1 {
				t.Errorf("%d connections left, want 1", r.left)
			}
		})
	}
}
