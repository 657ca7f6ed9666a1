package main

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

func TestSpecLine(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, test := range []struct{ spec, network, address, want string }{
		{"a=:0", "tcp", "[::]:9000", "a=:9000"},
		{"a=:9000,max=2", "tcp", "0.0.0.0:9000", "a=:9000,max=2"}, // a kernel without IPv6
		{"a=[fe80::1%eth0]:0", "tcp", "[fe80::1%eth0]:9000", "a=[fe80::1%eth0]:9000"},
		{"a=localhost:0", "tcp", "127.0.0.1:9000", "a=localhost:9000"},
		{"a=:80,max=2", "tcp", "127.0.0.1:9000", "a=127.0.0.1:9000,max=2"},   // passed by a service manager
		{"a=localhost:80", "tcp", "127.0.0.1:9000", "a=127.0.0.1:9000"},      // the same
		{"a=udp://1.2.3.4:5", "udp", "[::1]:9000", "a=udp://[::1]:9000"},     // the same
		{"a=unix:///other,mode=0600", "unix", "/s", "a=unix:///s,mode=0600"}, // the same
		{"a=unixgram://@x", "unixgram", "@x", "a=unixgram://@x"},
		{"a=any://pipe", "any", "pipe", "# a is a descriptor that was put with --any: it cannot be in a configuration"},
		{"a=unix:///x #y", "unix", "/x #y", `# a cannot be in a configuration, because of its path: "a=unix:///x #y"`},
		{"a=unix:///x ", "unix", "/x ", `# a cannot be in a configuration, because of its path: "a=unix:///x "`},
	} {
		if got := specLine(protocol.Listener{Name: "a", Spec: test.spec, Network: test.network, Address: test.address}); got != test.want {
			t.Errorf("%s at %s: got %q, want %q", test.spec, test.address, got, test.want)
		}
	}
}

func TestNaturalOrder(t *testing.T) {
	fdtest.CheckLeaks(t)
	want := []string{"1", "2", "10", "a", "a01", "a1", "a001b", "a2", "a2.9", "a2.10", "a10", "a10b2", "a10b10",
		"a99999999999999999998", "a99999999999999999999", "b", "svc-2", "svc-10"}
	got := slices.Clone(want)
	for range 20 {
		rand.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		slices.SortFunc(got, natural)
		if !slices.Equal(got, want) {
			t.Fatalf("got %s\nwant %s", strings.Join(got, " "), strings.Join(want, " "))
		}
	}
	for _, a := range want {
		for _, b := range want {
			if natural(a, b) != -natural(b, a) || (natural(a, b) == 0) != (a == b) {
				t.Errorf("%s and %s: %d, %d", a, b, natural(a, b), natural(b, a))
			}
		}
	}
}
