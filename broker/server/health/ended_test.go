package health

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestReportedOnce: a fault is reported once, however often it cannot be undone, and again if it comes again.
func TestReportedOnce(t *testing.T) {
	fdtest.CheckLeaks(t)
	passes, other := errors.New("may pass"), errors.New("may pass, too")
	beyond := fmt.Errorf("shut, and %w", socket.ErrBeyondRepair)
	repeat := func(n int, err error) []error { return slices.Repeat([]error{err}, n) }
	for _, c := range []struct {
		name string
		errs []error
		told []int // after how many of them
	}{
		{"passes at once", []error{passes, nil}, nil},
		{"lasts", repeat(100, passes), []int{2}},
		{"another follows", slices.Concat(repeat(2, passes), repeat(98, other)), []int{2, 3}},
		{"comes again", slices.Concat(repeat(9, passes), []error{nil}, repeat(9, passes)), []int{2, 12}},
		{"beyond repair", repeat(100, beyond), []int{1}},
	} {
		var tt target
		var told []int
		for i, err := range c.errs {
			if tt.ended(err, time.Duration(i)*time.Second) != nil {
				told = append(told, i+1)
			}
		}
		if !slices.Equal(told, c.told) {
			t.Errorf("%s: reported after %v, want %v", c.name, told, c.told)
		}
	}
}
