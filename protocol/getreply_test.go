//go:build linux

package protocol_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// TestHanded: Handed returns descriptors by their indices, in the order of the names. Every
// other reply is an error, and leaves no descriptor open.
func TestHanded(t *testing.T) {
	socket := func(name, fd string) string {
		return `{"name":"` + name + `","network":"tcp","address":"x","fileDescriptor":` + fd + `}`
	}
	sockets := func(list string) string { return `{"parameters":{"grant":7,"sockets":[` + list + `]}}` }
	malformed := protocol.ErrMalformed
	for _, test := range []struct {
		name, reply string
		fds         int
		order       []int // of the descriptors that came
		err         error
	}{
		{"in order", sockets(socket("a", "0") + "," + socket("b", "1")), 2, []int{0, 1}, nil},
		{"the other way", sockets(socket("a", "1") + "," + socket("b", "0")), 2, []int{1, 0}, nil},
		{"not plainly written", sockets(socket("a", "1")+","+socket("\\u0062", "0")) + " ", 2, []int{1, 0}, nil},
		{"with a field of later times", `{"parameters":{"grant":7,"new":1,"sockets":[` + socket("a", "0") + "," + socket("b", "1") + `]}}`, 2, []int{0, 1}, nil},
		{"one twice", sockets(socket("a", "1") + "," + socket("b", "1")), 2, nil, malformed},
		{"beyond the last", sockets(socket("a", "0") + "," + socket("b", "2")), 2, nil, malformed},
		{"negative", sockets(socket("a", "-1") + "," + socket("b", "0")), 2, nil, malformed},
		{"another name", sockets(socket("a", "0") + "," + socket("c", "1")), 2, nil, malformed},
		{"another order", sockets(socket("b", "0") + "," + socket("a", "1")), 2, nil, malformed},
		{"one socket", sockets(socket("a", "0")), 2, nil, malformed},
		{"one descriptor", sockets(socket("a", "0") + "," + socket("b", "1")), 1, nil, malformed},
		{"one more", sockets(socket("a", "0") + "," + socket("b", "1")), 3, nil, malformed},
		{"of another type", `{"parameters":{"sockets":3}}`, 0, nil, malformed},
		{"no JSON", `x`, 2, nil, malformed},
		{"an event", `{"parameters":{"event":"drain"}}`, 0, nil, malformed},
		{"an error", `{"error":"io.fdbroker.UnknownName","parameters":{"name":"a"}}`, 1, nil, protocol.ErrUnknownName},
	} {
		t.Run(test.name, func(t *testing.T) {
			var came []*scmrights.FD
			for range test.fds {
				n, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
				if err != nil {
					t.Fatal(err)
				}
				came = append(came, scmrights.NewFD(n))
			}
			reply, fds, err := protocol.Message{Bytes: []byte(test.reply), FDs: came}.Handed([]string{"a", "b"})
			if !errors.Is(err, test.err) {
				t.Errorf("got %v, want %v", err, test.err)
			}
			var order []int
			for _, fd := range fds {
				order = append(order, slices.Index(came, fd))
			}
			if !slices.Equal(order, test.order) || err == nil && reply.Grant != 7 {
				t.Errorf("got %v, grant %d; want %v", order, reply.Grant, test.order)
			}
			for i, fd := range came {
				closed := fd.Control(func(uintptr) {}) != nil
				if closed != (test.err != nil) {
					t.Errorf("descriptor %d is closed: %t", i, closed)
				}
				_ = fd.Close()
			}
		})
	}
}
