package socket

import (
	"errors"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestFutile: what cannot be undone by a few attempts is not attempted again, until it has been undone or is otherwise.
func TestFutile(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := repair{Socket: new(Socket)}
	fail := func(what string) bool {
		if !r.isFutile(what) {
			return errors.Is(r.noteIf(false, what), ErrNoEffect)
		}
		return true
	}
	for range 2 {
		for i := range futileMost {
			if fail("a") != (i == futileMost-1) {
				t.Errorf("attempt %d", i)
			}
		}
		if !r.isFutile("a") || r.isFutile("b") {
			t.Error("it is tried again")
		}
		if fail("b") || r.isFutile("a") {
			t.Error("another harm counts as the one before")
		}
		if err := r.noteIf(true, "b"); err != nil || r.isFutile("b") || len(r.done) == 0 {
			t.Errorf("undone: %v, %q", err, r.done)
		}
	}
}
