package closer_test

import (
	"slices"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/closer"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

func TestMain(m *testing.M) { fdtest.Main(m, nil) }

// An owner whose close blocks holds up its own closes only.
func TestCloser(t *testing.T) {
	fdtest.CheckLeaks(t)
	var c closer.Closer
	if !c.Wait(0) || c.Busy("a") {
		t.Error("busy from the start")
	}
	blocked, other := make(chan struct{}), make(chan struct{})
	var order []int
	c.Close("a", func() { <-blocked; order = append(order, 1) })
	c.Close("a", func() { order = append(order, 2) })
	c.Close("a", func() { order = append(order, 3) })
	c.Close("b", func() { close(other) })
	<-other
	if c.Wait(time.Millisecond) || !c.Busy("a") {
		t.Error("does not wait for a close that blocks")
	}
	close(blocked)
	if !c.Wait(time.Minute) || c.Busy("a") || c.Busy("b") {
		t.Error("still busy")
	}
	if want := []int{1, 2, 3}; !slices.Equal(order, want) {
		t.Errorf("closed in the order %v, want %v", order, want)
	}
	c.Close("a", func() { order = nil })
	if !c.Wait(time.Minute) || order != nil {
		t.Error("not used again")
	}
}
