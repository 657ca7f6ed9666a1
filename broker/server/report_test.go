package server_test

import (
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// Callers without privilege cannot fill the log with drains that ask no process.
func TestDrainsDoNotFloodTheLog(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,allow=any")
	w := b.spawn(t, alice, alice)
	drains := 0
	fdtest.Eventually(t, "some are not logged", func() bool {
		for range 200 {
			if err := w.call(method(protocol.MethodDrain, protocol.DrainParameters{Names: []string{"a"}})); err != nil {
				t.Fatal(err)
			}
			drains++
		}
		return len(b.logs.lines(`"drained"`)) < drains
	})
	if len(b.logs.lines(`"drained"`)) == 0 {
		t.Error("none is logged")
	}
}
