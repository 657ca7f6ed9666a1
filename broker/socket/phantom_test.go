//go:build linux

package socket_test

import (
	"errors"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// Refusing a path that is in use costs the one who has it no connection.
func TestRefusalLeavesNoConnection(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := fdtest.SocketDir(t) + "/s"
	for _, network := range []string{"unix", "unixpacket"} {
		first := open(t, "a="+network+"://"+path+network)
		if _, err := socket.Open(parse(t, "b=unix://"+path+network)); !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("%s: got %v", network, err)
		}
		if f, err := first.Figures(); err != nil || f.Queue != 0 {
			t.Errorf("%s: %d connections are queued, %v", network, f.Queue, err)
		}
	}
}
