//go:build linux

package plainget

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		line                   string
		socket, names, command string // names and words, joined by spaces; no name: not plain
	}{
		{"get web -- ./server", "", "web", "./server"},
		{"get web adm -- ./server --port 1 -- -x", "", "web adm", "./server --port 1 -- -x"},
		{"--socket /s get web -- a", "/s", "web", "a"},
		{"--socket=/s get web -- a", "/s", "web", "a"},
		{"get --socket=/a web --socket /b -- a", "/b", "web", "a"},
		{"get get -- get", "", "get", "get"},
		{line: "get web"},
		{line: "get -- a"},
		{line: "get web --"},
		{line: "get web web -- a"},
		{line: "get web -- a {fd}"},
		{line: "get web -- {path}"},
		{line: "get --stdin web -- a"},
		{line: "get web --wait -- a"},
		{line: "get web --help -- a"},
		{line: "get web - -- a"},
		{line: "run web -- a"},
		{line: "help get web -- a"},
		{line: "-- get web -- a"},
		{line: "get web --socket"},
		{line: "get web --socket --"},
		{line: ""},
		{"get " + strings.Repeat("x", 64) + " -- a", "", strings.Repeat("x", 64), "a"},
	} {
		c, ok := parse(append([]string{"fdclient"}, strings.Fields(test.line)...))
		if ok != (test.names != "") {
			t.Errorf("%s: plain: %v", test.line, ok)
			continue
		}
		if ok && (c.socket != test.socket || !slices.Equal(c.names, strings.Fields(test.names)) || !slices.Equal(c.command, strings.Fields(test.command))) {
			t.Errorf("%s: got %+v", test.line, c)
		}
	}
	if _, ok := parse(nil); ok {
		t.Error("no words at all are plain")
	}
	if _, ok := parse([]string{"fdclient", "get", "web", "--", ""}); ok {
		t.Error("a command without a name is plain")
	}
}

func TestParseManyNames(t *testing.T) {
	words := []string{"fdclient", "get"}
	for i := range 65 {
		words = append(words, strings.Repeat("x", i+1))
	}
	if _, ok := parse(append(words, "--", "a")); ok {
		t.Error("65 names are plain")
	}
	if _, ok := parse(append(words[:66], "--", "a")); !ok {
		t.Error("64 names are not plain")
	}
}
