package conn

import (
	"net"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestReplace: the loop goes on with another listener. Who had connected to the one before is served.
func TestReplace(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := serve(t, Config{}, false)
	before := r.dial()
	before.say("echo a")
	before.answers("a")
	for range 3 {
		waits := r.dial()
		r.path += "n"
		r.loop.Replace(r.listen())
		after := r.dial()
		for _, c := range []*client{after, waits, before} {
			c.say("echo b")
			c.answers("b")
		}
		if _, err := net.Dial("unix", r.path[:len(r.path)-1]); err == nil {
			t.Error("the listener before still takes connections")
		}
	}
	r.path += "n"
	r.loop.Replace(r.listen())
	r.stop()
}
