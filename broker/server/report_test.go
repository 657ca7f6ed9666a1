package server_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/rs/zerolog"

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
		return len(b.logs.lines(`"asked holders to leave"`)) < drains
	})
	if len(b.logs.lines(`"asked holders to leave"`)) == 0 {
		t.Error("none is logged")
	}
}

// TestGrantsAreLogged: at info the log tells who got a listener, and when that ended. However often clients get one,
// the log has a bounded number of lines, and says how many it lacks.
func TestGrantsAreLogged(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{Logger: zerolog.Nop().Level(zerolog.InfoLevel)}, "a=127.0.0.1:0", "b=127.0.0.1:0")
	w := b.spawn(t)
	if err := w.call(get("a", "b")); err != nil {
		t.Fatal(err)
	}
	pid := w.pid()
	lines := func(words ...string) []string {
		return b.logs.lines(append(words, `"level":"info"`, `"grant":1,"names":["a","b"]`, fmt.Sprintf(`"pid":%d,"uid":%d,"gid":%d`, pid, os.Geteuid(), os.Getegid()))...)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	fdtest.Eventually(t, "the grant is logged", func() bool { return len(lines(`"message":"granted"`, `"command":"`+exe)) == 1 })
	w.kill()
	fdtest.Eventually(t, "its end is logged", func() bool { return len(lines(`"message":"ended"`, `"why":"exited"`)) == 1 })

	c := b.client(t)
	begun := time.Now()
	for range 1000 {
		c.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
		c.got()
		c.close()
		c = b.client(t)
	}
	fdtest.Eventually(t, "the log says how many it lacks", func() bool {
		c.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
		c.got()
		c.close()
		c = b.client(t)
		return len(b.logs.lines(`"not_logged":`)) > 0
	})
	most := 100 * (int(time.Since(begun)/time.Second) + 2)
	if n := len(b.logs.lines(`"message":"granted"`)) + len(b.logs.lines(`"message":"ended"`)); n > most || n < 100 {
		t.Errorf("%d lines in %v", n, time.Since(begun))
	}
}
