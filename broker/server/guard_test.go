package server_test

import (
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// TestReloadGuards: without force, a configuration does not take away what is in use, and one that may be cut short
// takes nothing away. Nothing changes then.
func TestReloadGuards(t *testing.T) {
	const advice = "nothing changed; to load it anyway: fdclient reload --force"
	all := []string{"web=127.0.0.1:0", "app=127.0.0.1:0", "log=udp://127.0.0.1:0", "old=127.0.0.1:0", "idle=127.0.0.1:0,backlog=5"}
	without := func(names ...string) (specs []string) {
		for _, text := range all {
			name, _, _ := strings.Cut(text, "=")
			if !strings.Contains(" "+strings.Join(names, " ")+" ", " "+name+" ") {
				specs = append(specs, text)
			}
		}
		return specs
	}
	changed := func(name, text string) []string { return append(without(name), text) }
	for _, test := range []struct {
		name  string
		specs []string
		doubt server.Doubt
		want  []string // how the reasons begin; nil: it is loaded
	}{
		{"a holder", without("web"), server.Doubt{}, []string{`"web" would be unbound, and is in use: held by pid `}},
		{"a queue", without("app"), server.Doubt{}, []string{`"app" would be unbound, and is in use: 1 connection queued`}},
		{"packets", without("log"), server.Doubt{}, []string{`"log" would be unbound, and is in use: `}},
		{"a process without a grant", without("old"), server.Doubt{}, []string{`"old" would be unbound, and is in use: open in pid `}},
		{"several", without("app", "web", "idle"), server.Doubt{}, []string{`"app" would be unbound`, `"web" would be unbound`}},
		{"nothing left", nil, server.Doubt{Empty: true}, []string{`"app" would`, `"log" would`, `"old" would`, `"web" would`,
			"the configuration has no listener, and would unbind app, idle, log, old, web"}},
		{"no newline, and a listener is gone", without("idle"), server.Doubt{Unended: true, Last: "old"},
			[]string{"the configuration may be cut short, because its last line has no newline at its end, and would unbind idle"}},
		{"no newline, and the last line differs", changed("web", "web=127.0.0.2:0"), server.Doubt{Unended: true, Last: "web"},
			[]string{`"web" would change, and is in use (held by pid `}},
		{"no newline, and an option differs", changed("app", "app=127.0.0.1:0,backlog=1"), server.Doubt{Unended: true, Last: "app"},
			[]string{`"app" would change, and is in use (1 connection queued); its line may be cut short`}},
		{"no newline, and the last line has another address", changed("idle", "idle=127.0.0.2:0"), server.Doubt{Unended: true, Last: "idle"},
			[]string{`"idle" would be unbound from its address; its line may be cut short, because it has no newline at its end`}},
		{"no newline, and nothing differs", all, server.Doubt{Unended: true, Last: "idle"}, nil},
		{"no newline, and the last line is new", append(without(), "new=127.0.0.1:0"), server.Doubt{Unended: true, Last: "new"}, nil},
		{"no newline, and a change of what is not in use", changed("idle", "idle=127.0.0.1:0,backlog=6"), server.Doubt{Unended: true, Last: "idle"}, nil},
		{"not in use", without("idle"), server.Doubt{}, nil},
		{"a change with a newline", changed("app", "app=127.0.0.1:0,backlog=7"), server.Doubt{}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := start(t, server.Config{})
			if _, err := b.reload(t, all...); err != nil {
				t.Fatal(err)
			}
			useAll(t, b)
			before := b.cookies()
			var specs []spec.Spec
			for _, text := range test.specs {
				specs = append(specs, parse(t, text))
			}
			_, err := b.Reload(specs, server.ReloadOptions{Doubt: test.doubt})
			if test.want == nil {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			failed, ok := errors.AsType[*protocol.ReloadFailedError](err)
			if !ok || len(failed.Reasons) != len(test.want)+1 || failed.Reasons[len(test.want)] != advice {
				t.Fatalf("got %v", err)
			}
			for i, want := range test.want {
				if !strings.HasPrefix(failed.Reasons[i], want) {
					t.Errorf("got %q, want %q", failed.Reasons[i], want)
				}
			}
			if now := b.cookies(); !reflect.DeepEqual(now, before) {
				t.Errorf("it was %v, and is %v", before, now)
			}
			if _, err := b.Reload(specs, server.ReloadOptions{Force: true, Rebind: true, Doubt: test.doubt}); err != nil {
				t.Errorf("with force: %v", err)
			}
		})
	}
}

// useAll makes web held, app and log have something in their queue, and old open in a process without a grant.
func useAll(t *testing.T, b *broker) {
	t.Helper()
	c := b.client(t)
	c.send(get("web"))
	c.got()
	for network, name := range map[string]string{"tcp": "app", "udp": "log"} {
		conn, err := net.Dial(network, b.listener(t, name).Address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	lent := b.client(t)
	lent.send(getMore(protocol.GetParameters{Names: []string{"old"}}))
	_, fds := lent.got()
	stray := b.spawnWith(t, fds[0])
	lent.close()
	b.held(t, "old", 0, 0)
	t.Cleanup(stray.kill)
}
