//go:build linux

package server

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// named returns a listener of that name, whose descriptor is a file.
func named(t *testing.T, name string) *listener {
	t.Helper()
	n, err := unix.Open(filepath.Join(t.TempDir(), "f"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	sock, err := socket.AdoptAny(name, "", scmrights.NewFD(n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sock.Close() })
	return &listener{socket: sock}
}

// TestIndex: an index finds what a map would, whatever was put in and taken out before.
func TestIndex(t *testing.T) {
	const names = 100
	var listeners [names]*listener
	for i := range listeners {
		listeners[i] = named(t, fmt.Sprint("n", i))
	}
	var x index
	want := make(map[string]*listener)
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 5_000 {
		l := listeners[random.IntN(names)]
		name := l.socket.Name()
		switch random.IntN(4) {
		case 0:
			x.put(l)
			want[name] = l
		case 1:
			x.remove(name)
			delete(want, name)
		case 2:
			var all []*listener
			for _, l := range listeners[:random.IntN(5)] {
				if name := l.socket.Name(); want[name] == nil {
					all, want[name] = append(all, l), l
				}
			}
			x.add(all)
		}
		if x.get(name) != want[name] || len(x) != len(want) {
			t.Fatalf("step %d: %s is %p, and there are %d; want %p and %d", step, name, x.get(name), len(x), want[name], len(want))
		}
	}
	for _, l := range listeners {
		if name := l.socket.Name(); x.get(name) != want[name] {
			t.Errorf("%s is %p, want %p", name, x.get(name), want[name])
		}
	}
	if !slices.IsSortedFunc(x, func(a, b *listener) int { return strings.Compare(a.socket.Name(), b.socket.Name()) }) {
		t.Error("they are not in order")
	}
}
