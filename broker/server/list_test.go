package server_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// One list at a time is made for callers without privilege: others go before them.
func TestListsWithoutPrivilege(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,allow=any")
	w := b.spawn(t, alice, alice)
	if err := w.call(get("a")); err != nil { // the process is a client from here on
		t.Fatal(err)
	}
	release := b.HoldLists()
	w.ask(method(protocol.MethodList, nil))
	c := b.client(t)
	for range 20 {
		c.send(get("a"))
		c.got()
		if got := c.list(); len(got.Listeners) != 1 {
			t.Errorf("got %+v", got)
		}
	}
	_ = w.out.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // the reply must not come, so no time is too short
	if line, err := readLine(w.out); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it does not wait: %q, %v", line, err)
	}
	release()
	var got protocol.ListReply
	if r, _ := w.answer(); r.Err != nil || protocol.DecodeParameters(r.Parameters, &got) != nil || len(got.Listeners) != 1 {
		t.Errorf("got %+v, %+v", got, r.Err)
	}
	defer b.HoldLists()() // must not hold up the end of the broker
	w.ask(method(protocol.MethodList, nil))
	b.stops(t)
}

// An error that a listener is full shows the holders as a list does.
func TestHoldersInErrors(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "one=127.0.0.1:0,max=1,allow=any", "many=127.0.0.1:0,allow=any", "secret=127.0.0.1:0")
	holder := b.client(t)
	holder.send(get("one", "many", "secret"))
	if _, fds := holder.got(); len(fds) != 3 {
		t.Fatal(len(fds))
	}
	root := b.client(t)
	root.send(getMore(protocol.GetParameters{Names: []string{"one"}}))
	full, ok := errors.AsType[*protocol.FullError](root.refused())
	if !ok || len(full.Holders) != 1 || !slices.Equal(full.Holders[0].Names, []string{"one", "many", "secret"}) {
		t.Errorf("root: got %+v", full)
	}
	w := b.spawn(t, alice, alice)
	check := func(holders []protocol.Holder) {
		t.Helper()
		if len(holders) != 1 || !slices.Equal(holders[0].Names, []string{"one", "many"}) || holders[0].PID != os.Getpid() || holders[0].Command == "" {
			t.Errorf("got %+v", holders)
		}
	}
	if full, ok = errors.AsType[*protocol.FullError](w.call(get("one"))); !ok {
		t.Fatal("it has got a place")
	}
	check(full.Holders)
	conflict, ok := errors.AsType[*protocol.ConflictError](w.call(getOnce(protocol.GetParameters{Names: []string{"many"}, Blocking: new(true)})))
	if !ok {
		t.Fatal("there is no conflict")
	}
	check(conflict.Holders)
}

// BenchmarkListeners measures a List.
func BenchmarkListeners(b *testing.B) {
	dir := fdtest.SocketDir(b)
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": "unix://" + filepath.Join(dir, "s%d")} {
		for _, n := range []int{1, 10, 200} {
			b.Run(fmt.Sprintf("%s-%d", network, n), func(b *testing.B) {
				var specs []string
				for i := range n {
					at := address
					if network == "unix" {
						at = fmt.Sprintf(address, i)
					}
					specs = append(specs, fmt.Sprintf("n%d=%s", i, at))
				}
				s := start(b, server.Config{}, specs...)
				b.ReportAllocs()
				for b.Loop() {
					if got := s.Listeners(); len(got) != n {
						b.Fatalf("got %d", len(got))
					}
				}
			})
		}
	}
}
