package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

var now = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

// since is so long before now.
func since(d time.Duration) int64 { return now.Add(-d).UnixMicro() }

func listed() protocol.ListReply {
	return protocol.ListReply{
		Listeners: []protocol.Listener{
			{Name: "adm", Network: "tcp", Address: "127.0.0.1:9001", Queue: new(int64(3)), Limit: new(int64(4096)), Drops: new(uint64(0)), Orphaned: true},
			{Name: "app", Network: "unix", Address: "/run/app.sock", Queue: new(int64(0)), Limit: new(int64(128)), Holders: 1, Max: 2},
			{Name: "log", Network: "udp", Address: "[::]:514", Queue: new(int64(768)), Limit: new(int64(212992)), Drops: new(uint64(12)), Bytes: true, Holders: 1},
			{Name: "raw", Network: "unixgram", Address: "@raw", Bytes: true, Queue: new(int64(5)), Limit: new(int64(0))},
			{Name: "web", Network: "tcp", Address: "[::]:9000", Queue: new(int64(0)), Limit: new(int64(4096)), Drops: new(uint64(7)), Holders: 2, Max: 2, Waiting: 1},
			{Name: "x", Network: "tcp", Address: "127.0.0.1:1"},
		},
		Holders: []protocol.Holder{
			{Grant: 7, Names: []string{"web", "app"}, PID: 4711, UID: 0, State: "active", Since: since(133 * time.Second), Command: "python3 app.py"},
			{Grant: 9, Names: []string{"web"}, PID: 4712, UID: 54321, State: "active", Since: since(4*time.Second + 999*time.Millisecond), Command: "./server"},
			{Grant: 10, Names: []string{"log"}, UID: 54321, State: "active", Since: since(50*time.Hour + 3*time.Minute)},
			{Grant: 123, Names: []string{"web"}, PID: 5000, UID: 0, State: "waiting", Since: since(-time.Minute), Command: "./server"},
		},
	}
}

const wantList = `NAME  ADDRESS             HOLDERS               QUEUE         DROPS
adm   tcp 127.0.0.1:9001  nobody                3/4096        0
app   unix /run/app.sock  1 (max 2)             0/128         -
log   udp [::]:514        1                     768/212992 B  12
raw   unixgram @raw       nobody                5 B           -
web   tcp [::]:9000       2 (max 2) +1 waiting  0/4096        7
x     tcp 127.0.0.1:1     nobody                -             -

GRANT  NAMES    PID   USER   STATE    SINCE  COMMAND
7      web,app  4711  root   active   2m13s  python3 app.py
9      web      4712  54321  active   4s     ./server
10     log      -     54321  active   2d2h   -
123    web      5000  root   waiting  0s     ./server
`

func TestPrintList(t *testing.T) {
	var b bytes.Buffer
	if err := printList(&b, listed(), now); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != wantList {
		t.Errorf("got\n%s\nwant\n%s", got, wantList)
	}
}

func TestStateText(t *testing.T) {
	bound := []protocol.Listener{{Name: "web"}}
	for want, h := range map[string]protocol.Holder{
		"active": {State: "active", Names: []string{"grpc"}}, "waiting": {State: "waiting", Names: []string{"web"}},
		`waiting for "grpc", "x"`: {State: "waiting", Names: []string{"grpc", "web", "x"}},
	} {
		if got := stateText(h, bound); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestPrintListNotes: if a socket was repaired, or cannot be, there is a column for that.
func TestPrintListNotes(t *testing.T) {
	list := protocol.ListReply{Listeners: []protocol.Listener{
		{Name: "a", Network: "unix", Address: "/a"},
		{Name: "b", Network: "unix", Address: "/b", Healed: 1},
		{Name: "c", Network: "unix", Address: "/c", Healed: 15, HealedLimits: 3},
		{Name: "d", Network: "unix", Address: "/d", Healed: 12, Ailment: "somebody has it"},
		{Name: "g", Network: "unix", Address: "/g", Healed: 3, HealedLimits: 3},
		{Name: "e", Network: "unix", Address: "/e", Healed: 12, Stalled: true, StalledSince: since(12 * time.Second), Holders: 2},
		{Name: "f", Network: "unix", Address: "/f", Ailment: "somebody has it", Stalled: true, StalledSince: since(time.Hour), Holders: 1},
	}}
	const want = `NAME  ADDRESS  HOLDERS  QUEUE  DROPS  NOTE
a     unix /a  nobody   -      -      -
b     unix /b  nobody   -      -      healed once
c     unix /c  nobody   -      -      healed 12 times
d     unix /d  nobody   -      -      somebody has it
g     unix /g  nobody   -      -      -
e     unix /e  2        -      -      queue not served for 12s, or too slowly
f     unix /f  1        -      -      somebody has it; queue not served for 1h0m0s, or too slowly
`
	var b bytes.Buffer
	if err := printList(&b, list, now); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour:                   "0s",
		0:                            "0s",
		1500 * time.Millisecond:      "1s",
		time.Hour + time.Second:      "1h0m1s",
		24*time.Hour - 1:             "23h59m59s",
		24 * time.Hour:               "1d0h",
		100*24*time.Hour + time.Hour: "100d1h",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%d) = %q, want %q", d, got, want)
		}
	}
}

// TestListOnTerminal: a listener with a queue and no holder is highlighted, and nothing
// else does.
func TestListOnTerminal(t *testing.T) {
	const loud, quiet = "\x1b[1;31m", "\x1b[0m"
	print := func(t *testing.T) []string {
		tty, text := fdtest.Terminal(t)
		if err := printList(tty, listed(), now); err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.ReplaceAll(text(), "\r\n", "\n"), "\n")
	}
	plain := strings.Split(wantList, "\n")
	t.Run("color", func(t *testing.T) {
		t.Setenv("NO_COLOR", "")
		lines := print(t)
		if len(lines) != len(plain) {
			t.Fatalf("got %q", lines)
		}
		for i, line := range lines {
			want := plain[i]
			if strings.HasPrefix(want, "adm") {
				want = loud + want + quiet
			}
			if line != want {
				t.Errorf("line %d: got %q, want %q", i+1, line, want)
			}
		}
	})
	t.Run("NO_COLOR", func(t *testing.T) {
		t.Setenv("NO_COLOR", "1")
		if got := strings.Join(print(t), "\n"); got != wantList {
			t.Errorf("got\n%s", got)
		}
	})
}

// TestStalledOnTerminal: a listener whose holders do not accept is highlighted.
func TestStalledOnTerminal(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	list := protocol.ListReply{Listeners: []protocol.Listener{{Name: "a", Stalled: true, StalledSince: since(6 * time.Second), Holders: 1}}}
	tty, text := fdtest.Terminal(t)
	if err := printList(tty, list, now); err != nil {
		t.Fatal(err)
	}
	if line := strings.Split(text(), "\n")[1]; !strings.HasPrefix(line, "\x1b[1;31ma ") || !strings.Contains(line, "queue not served for 6s") {
		t.Errorf("got %q", line)
	}
}

// hostile is a name by which a process tries to write on an operator's terminal.
const hostile = "x\x1b]0;pwned\x07\x1b[2J\r\n\u009b31m\u2028y"

func TestHostileCommand(t *testing.T) {
	list := listed()
	list.Holders[0].Command = hostile
	list.Listeners[0].Address = hostile
	tty, text := fdtest.Terminal(t)
	t.Setenv("NO_COLOR", "1")
	if err := printList(tty, list, now); err != nil {
		t.Fatal(err)
	}
	checkHarmless(t, text(), strings.Count(wantList, "\n"))
}

// TestHostileError: the holders' commands are in errors too.
func TestHostileError(t *testing.T) {
	holders := []protocol.Holder{{PID: 1, Command: hostile}}
	for _, err := range []error{
		&protocol.ConflictError{Name: "web", Holders: holders},
		&protocol.FullError{Name: "web", Max: 1, Holders: holders},
		&protocol.RemoteError{Name: hostile},
		&protocol.NameInUseError{Name: "web", Spec: strings.ReplaceAll(hostile, "\n", "")},
		&protocol.DeniedError{Name: "web", Allow: []string{strings.ReplaceAll(hostile, "\n", "")}},
		&protocol.UnknownNameError{Name: hostile, Names: []string{strings.ReplaceAll(hostile, "\n", "")}},
		&protocol.BindFailedError{Failures: []protocol.BindFailure{{Message: strings.ReplaceAll(hostile, "\n", "")}}},
	} {
		var b bytes.Buffer
		complain(&b, err)
		checkHarmless(t, b.String(), 1)
	}
}

func checkHarmless(t *testing.T, text string, lines int) {
	t.Helper()
	text = strings.ReplaceAll(text, "\r\n", "\n")
	if strings.ContainsAny(text, "\x1b\x07\r\u009b\u2028") {
		t.Errorf("a control character was written: %q", text)
	}
	if got := strings.Count(text, "\n"); got != lines {
		t.Errorf("%d lines, want %d: %q", got, lines, text)
	}
}
