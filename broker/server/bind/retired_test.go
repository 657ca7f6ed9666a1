package bind

import (
	"net"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestKilledBeforeRetiring: a broker that is killed once the books have the new socket, and before the old one is
// retired, leaves no client to the old one. The journal may also be without the new one.
func TestKilledBeforeRetiring(t *testing.T) {
	for _, lost := range []bool{false, true} {
		fdtest.CheckLeaks(t)
		s := newStore(t)
		parse := func(text string) spec.Spec {
			sp, err := spec.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			return sp
		}
		killed := newBinder(t, s)
		if _, err := killed.Restore(nil); err != nil {
			t.Fatal(err)
		}
		if err := killed.Configure([]spec.Spec{parse("web=127.0.0.1:0")}, nil, nil); err != nil {
			t.Fatal(err)
		}
		old := killed.cfg.Registry.Listeners()[0].Socket
		_, port, _ := net.SplitHostPort(old.Address())
		next := parse("web=:" + port)
		sock, err := socket.Open(next, socket.OpenConfig{Replacing: []*socket.Socket{old}})
		if err != nil {
			t.Fatal(err)
		}
		added := []registry.Listener{{Socket: sock, Token: killed.cfg.Registry.NewToken(), Configured: true}}
		killed.keepSockets(added)
		change := registry.Change{Renew: []string{"web"}, Remove: []string{"web"}, Add: added}
		if _, err := killed.cfg.Registry.Apply(change); err != nil {
			t.Fatal(err)
		}
		if lost {
			killed.cfg.Registry.Journal(func(j *journal.Journal) { j.RemoveListener(added[0].Token) })
		}

		b := newBinder(t, s)
		if _, err := b.Restore(s.passed(t, s.names()...)); err != nil {
			t.Fatal(err)
		}
		if err := b.Configure([]spec.Spec{next}, nil, nil); err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		now := b.cfg.Registry.Listeners()[0].Socket
		if f, err := now.Figures(); err != nil || f.Queue != 1 || now.Cookie() != sock.Cookie() {
			t.Errorf("lost %t: the new socket has %+v, %v", lost, f, err)
		}
		_ = conn.Close()
	}
}
