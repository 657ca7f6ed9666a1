package bind

import (
	"errors"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// TestReloadUnseen: a configuration does not take away what a process may use that the broker cannot follow.
func TestReloadUnseen(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := newBinder(t, nil)
	if _, err := b.Restore(nil); err != nil {
		t.Fatal(err)
	}
	s, err := spec.Parse("web=127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Reload([]spec.Spec{s}, ReloadOptions{}); err != nil {
		t.Fatal(err)
	}
	c := registry.Caller{Privileged: true} // pid 0, as of a process in another pid namespace
	if q := (&registry.Request{Names: []string{"web"}, Caller: &c}); !b.cfg.Registry.Ask(q, false) {
		t.Fatal("not decided")
	}
	b.cfg.Registry.EndConnection(&c, registry.EndDisconnected)
	_, err = b.Reload(nil, ReloadOptions{})
	if failed, ok := errors.AsType[*protocol.ReloadFailedError](err); !ok || !strings.Contains(failed.Error(), "another pid namespace") {
		t.Errorf("got %v", err)
	}
	if _, err := b.Reload(nil, ReloadOptions{Force: true}); err != nil {
		t.Errorf("with force: %v", err)
	}
}
