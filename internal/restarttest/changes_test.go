package restarttest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestChangesMeanwhile: a listener that is bound or unbound while another program takes over is so with the next
// broker, if the client was told that it is.
func TestChangesMeanwhile(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := start(t, "--store=none")
	done := make(chan struct{})
	var changing sync.WaitGroup
	var mu sync.Mutex
	bound := make(map[string]bool) // what the client was told last
	for k := range 8 {
		changing.Go(func() {
			c := broker.Client{Socket: r.socket}
			defer c.Close()
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				name := fmt.Sprintf("n%d-%d", k, n)
				if _, err := c.Bind(context.Background(), name+"=127.0.0.1:0"); err != nil {
					continue // it may be bound or not
				}
				err := error(nil)
				if n%8 != 0 {
					err = c.Unbind(context.Background(), name)
				}
				if err == nil {
					mu.Lock()
					bound[name] = n%8 == 0
					mu.Unlock()
				}
			}
		})
	}
	for range times(10) {
		if err := r.client.Upgrade(context.Background()); err != nil {
			t.Error(err)
		}
		r.answers(0)
	}
	close(done)
	changing.Wait()
	is := r.cookies()
	for name, want := range bound {
		if _, got := is[name]; got != want {
			t.Errorf("%s: bound is %t, and its client was told %t", name, got, want)
		}
	}
	if len(bound) == 0 {
		t.Error("nothing was bound or unbound")
	}
}
