package logging_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/logging"
	"github.com/rs/zerolog"
)

// TestCountsWhatIsDropped: a reader that comes back reads how many lines it has missed.
func TestCountsWhatIsDropped(t *testing.T) {
	fdtest.CheckLeaks(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	log, written := logging.New(w, zerolog.InfoLevel, "json")
	const lines = 10 * logging.Buffer
	padding := strings.Repeat("x", 100)
	for i := range lines {
		log.Info().Int("i", i).Str("padding", padding).Msg("line")
	}
	read := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(r)
		read <- b
	}()
	written.Close()
	_ = w.Close()
	got, dropped := 0, 0
	for line := range bytes.Lines(<-read) {
		var l struct {
			Message string
			Count   int
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if l.Message == "line" {
			got++
		}
		dropped += l.Count
	}
	if got == lines || dropped == 0 {
		t.Errorf("%d of %d lines came, and %d are said to be missing", got, lines, dropped)
	}
}

func TestFormats(t *testing.T) {
	logged := func(w io.Writer, format string) {
		log, written := logging.New(w, zerolog.InfoLevel, format)
		log.Info().Str("name", "web").Msg("bound")
		log.Debug().Msg("too fine")
		written.Close()
	}
	const color = "\x1b["
	for _, c := range []struct {
		format            string
		terminal, noColor bool
		json, color       bool
	}{
		{"auto", false, false, true, false},
		{"auto", true, false, false, true},
		{"auto", true, true, false, false},
		{"json", true, false, true, false},
		{"console", false, false, false, false},
		{"console", true, false, false, true},
	} {
		t.Run(fmt.Sprintf("%s, terminal %v, NO_COLOR %v", c.format, c.terminal, c.noColor), func(t *testing.T) {
			t.Setenv("NO_COLOR", "")
			if c.noColor {
				t.Setenv("NO_COLOR", "1")
			}
			var text string
			if c.terminal {
				tty, all := fdtest.Terminal(t)
				logged(tty, c.format)
				text = all()
			} else {
				var b bytes.Buffer
				logged(&b, c.format)
				text = b.String()
			}
			if got := strings.HasPrefix(text, "{"); got != c.json {
				t.Errorf("JSON: got %v of %q", got, text)
			}
			if got := strings.Contains(text, color); got != c.color {
				t.Errorf("colour: got %v of %q", got, text)
			}
			if strings.Count(text, "\n") != 1 || !strings.Contains(text, "bound") {
				t.Errorf("got %q", text)
			}
		})
	}
}
