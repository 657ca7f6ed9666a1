package main

import (
	"net"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/complete"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestSummaries: the list in the usage, which completion reads, has every verb.
func TestSummaries(t *testing.T) {
	for _, v := range verbs() {
		if v.summary() == "" {
			t.Errorf("the usage has no line for %s", v.name())
		}
	}
}

// TestAnswerCommand: the words behind "--" are another command's line.
func TestAnswerCommand(t *testing.T) {
	for _, c := range []struct {
		words []string
		kind  string
		skip  int
	}{
		{[]string{"get", "a", "--", ""}, complete.Command, 4},
		{[]string{"--socket", "s", "get", "a", "--env", "K=V", "--", "env", ""}, complete.Command, 8},
		{[]string{"list", "--", ""}, complete.Words, 0},
		{[]string{"get", "--env", "--"}, complete.Words, 0}, // the value of --env
		{[]string{"--", ""}, complete.Words, 0},
		{[]string{"frobnicate", ""}, complete.Words, 0},
		{nil, complete.Words, 0},
	} {
		if a := answer(c.words); a.Kind != c.kind || a.Skip != c.skip {
			t.Errorf("%q: %s %d, want %s %d", c.words, a.Kind, a.Skip, c.kind, c.skip)
		}
	}
}

// TestNamesHung: a completion does not wait long for a broker that does not answer.
func TestNamesHung(t *testing.T) {
	control := fdtest.SocketDir(t) + "/c"
	ln, err := net.Listen("unix", control) // connects, and is never accepted
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	begin := time.Now()
	if a := answer([]string{"addr", "--socket", control, ""}); a.Kind != complete.Words || len(a.Words) > 0 && a.Words[0].Text[0] != '-' {
		t.Errorf("answer %+v", a)
	}
	if took := time.Since(begin); took > 10*answerTime {
		t.Errorf("it took %v", took)
	}
}
