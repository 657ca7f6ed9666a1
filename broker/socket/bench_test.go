package socket_test

import (
	"path/filepath"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

var benchNetworks = []string{"tcp", "udp", "unix"}

func benchSpec(b *testing.B, network string) spec.Spec {
	if network == "unix" {
		return parse(b, "a=unix://"+filepath.Join(fdtest.SocketDir(b), "s"))
	}
	return parse(b, "a="+network+"://127.0.0.1:0")
}

func BenchmarkOpenClose(b *testing.B) {
	for _, network := range benchNetworks {
		b.Run(network, func(b *testing.B) {
			spec := benchSpec(b, network)
			b.ReportAllocs()
			for b.Loop() {
				sock, err := socket.Open(spec, socket.OpenConfig{})
				if err != nil {
					b.Fatal(err)
				}
				if err := sock.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFigures(b *testing.B) {
	for _, network := range benchNetworks {
		b.Run(network, func(b *testing.B) {
			sock, err := socket.Open(benchSpec(b, network), socket.OpenConfig{})
			if err != nil {
				b.Fatal(err)
			}
			defer sock.Close()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := sock.Figures(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRepair is a look at a socket without a fault.
func BenchmarkRepair(b *testing.B) {
	for _, text := range []string{"a=127.0.0.1:0", "a=udp://127.0.0.1:0", "a=unix://@fdbroker-bench-heal", "a=unix://" + fdtest.SocketDir(b) + "/s"} {
		s, err := spec.Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		sock, err := socket.Open(s, socket.OpenConfig{})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(sock.Network()+sock.Address()[:1], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if undone, err := sock.Repair(); undone != nil || err != nil {
					b.Fatal(undone, err)
				}
			}
		})
		_ = sock.Close()
	}
}
