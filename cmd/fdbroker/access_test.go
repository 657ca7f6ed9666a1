package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestShutOut: a listener's allow= has no effect for users that the control socket keeps out.
func TestShutOut(t *testing.T) {
	fdtest.CheckLeaks(t)
	own := strconv.Itoa(os.Geteuid())
	gid := func(n int) *int { return &n }
	for _, test := range []struct {
		specs   string
		control server.ControlConfig
		want    string // begins so
	}{
		{"a=:1", server.ControlConfig{}, ""},
		{"a=:1,allow=user:root+uid:" + own, server.ControlConfig{}, ""},
		{"a=:1,allow=gid:77", server.ControlConfig{}, "allow=gid:77 has no effect: the control socket is for root"},
		{"a=:1,allow=any", server.ControlConfig{Mode: 0o600}, "allow=any has no effect"},
		{"a=:1,allow=gid:77 b=:2,allow=gid:77+uid:78", server.ControlConfig{}, "allow=gid:77, allow=uid:78 have no effect"},
		{"a=:1,allow=gid:77+uid:78+any", server.ControlConfig{Mode: 0o666}, ""},
		{"a=:1,allow=gid:77+uid:78", server.ControlConfig{Mode: 0o660, GID: gid(77)}, ""}, // nobody knows the groups of uid 78
		{"a=:1,allow=gid:79", server.ControlConfig{Mode: 0o660, GID: gid(77)}, ""},        // a user may be in both
		{"a=:1,allow=uid:0", server.ControlConfig{Mode: 0o660, GID: gid(77)}, ""},
		{"a=:1,allow=user:daemon", server.ControlConfig{Mode: 0o660, GID: gid(77)}, "allow=u"},
		{"a=:1,allow=any", server.ControlConfig{Mode: 0o660, GID: gid(77)}, ""},
		{"a=:1,allow=gid:79", server.ControlConfig{Mode: 0o660}, "allow=gid:79 has no effect"},
	} {
		var listeners []spec.Spec
		for text := range strings.FieldsSeq(test.specs) {
			if _, err := user.Lookup("daemon"); err != nil {
				text = strings.ReplaceAll(text, "user:daemon", "uid:1")
			}
			s, err := spec.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			listeners = append(listeners, s)
		}
		got := shutOut(listeners, test.control)
		if !strings.HasPrefix(got, test.want) || test.want == "" && got != "" {
			t.Errorf("%s, %+v: got %q, want %q", test.specs, test.control, got, test.want)
		}
	}
}

// TestShutOutIsLogged: a start says so once.
func TestShutOutIsLogged(t *testing.T) {
	fdtest.CheckLeaks(t)
	ctx, stop := context.WithCancel(context.Background())
	stop() // as soon as it has started
	var stderr bytes.Buffer
	args := []string{"--store=none", "--log-format=json", "--socket", fdtest.SocketDir(t) + "/c",
		"--bind", "a=127.0.0.1:0,allow=gid:77", "--bind", "b=127.0.0.1:0,allow=gid:77"}
	if status := run(ctx, args, inputs{}, io.Discard, &stderr); status != cli.OK {
		t.Errorf("exit status %d:\n%s", status, stderr.String())
	}
	if n := strings.Count(stderr.String(), "allow=gid:77 has no effect"); n != 1 {
		t.Errorf("it is said %d times: %s", n, stderr.String())
	}
}
