package main

import (
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/protocol"
)

// TestEventOneLine: an event stays one line, and readable, if its reasons are several.
func TestEventOneLine(t *testing.T) {
	var out strings.Builder
	e := protocol.Event{What: "refused", Why: "\"web\" would be unbound\nnothing changed\x1b"}
	if err := printEvent(&out, e); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), " refused: \"web\" would be unbound; nothing changed?\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want it to end with %q", got, want)
	}
}
