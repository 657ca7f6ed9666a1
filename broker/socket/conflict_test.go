package socket_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestConflicts: claims conflict exactly if the kernel refuses the second of two sockets.
func TestConflicts(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	free, err := socket.Open(parse(t, "free=:0"), socket.OpenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Address())
	_ = free.Close()
	addresses := []string{"unix://" + dir + "/s", "unixgram://" + dir + "/s", "unixpacket://" + dir + "/t", "unix://@" + dir, "unixgram://@" + dir}
	for _, network := range []string{"tcp", "udp"} {
		for _, host := range []string{"", "0.0.0.0", "[::]", "127.0.0.1", "127.0.0.2", "[::1]", "localhost"} {
			addresses = append(addresses, network+"://"+host+":"+port)
			if host == "" || host == "[::1]" {
				addresses = append(addresses, network+"://"+host+":"+port+",v6only", network+"://"+host+":"+port+",device=lo")
			}
		}
		addresses = append(addresses, network+"4://:"+port, network+"6://:"+port)
	}
	tried := 0
	for _, a := range addresses {
		one := open(t, "a="+a)
		for _, b := range addresses {
			s := parse(t, "b="+b)
			claims, err := s.Claims()
			if err != nil {
				t.Fatal(err)
			}
			other, err := socket.Open(s, socket.OpenConfig{SkipHolders: true})
			if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
				t.Fatal(err)
			}
			if got := one.Claim().Conflicts(claims[0]); got != (err != nil) {
				t.Errorf("%s beside %s: conflicts is %v, and the kernel says %v", b, a, got, err)
			}
			if err == nil {
				_ = other.Close()
			}
			both := spec.CheckConflicts([]spec.Spec{parse(t, "a="+a), s})
			if (both != nil) != (err != nil) {
				t.Errorf("%s and %s: got %v", a, b, both)
			}
			tried++
		}
		if err := one.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Log(tried, "pairs")
}

// TestManyConflicts: the check takes little time for many specs.
func TestManyConflicts(t *testing.T) {
	specs := make([]spec.Spec, 20000)
	for i := range specs {
		specs[i] = parse(t, fmt.Sprintf("n%d=127.0.%d.%d:80", i, i/250, i%250+1))
	}
	specs = append(specs, parse(t, "all=:80"))
	if err := spec.CheckConflicts(specs); err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), `"n0"`) {
		t.Errorf("got %v", err)
	}
}
