//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/rs/zerolog"
)

// TestLogReaderGoes and TestLogReaderStops: whoever reads the log can neither end
// the broker nor hold it up.
func TestLogReaderGoes(t *testing.T) {
	fdtest.CheckLeaks(t)
	testLog(t, func(r *os.File) { _ = r.Close() })
}

func TestLogReaderStops(t *testing.T) {
	fdtest.CheckLeaks(t)
	testLog(t, func(*os.File) {})
}

// testLog runs a broker that logs to a pipe, and lets become of the pipe what
// spoil does.
func testLog(t *testing.T, spoil func(r *os.File)) {
	t.Helper()
	path := filepath.Join(fdtest.SocketDir(t), "c")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const size = 4096 // the least that a pipe holds
	rc, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := rc.Control(func(fd uintptr) { _, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETPIPE_SZ, size) }); err != nil {
		t.Fatal(err)
	}
	cmd := fdtest.Helper(t, "fdbroker", "--socket", path, "--bind", "web=127.0.0.1:0", "--log-level", "debug")
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	waitReady(t, path)
	spoil(r)
	// Many times what the pipe and the buffer before it hold.
	d := broker.Dialer{Socket: path}
	for range 2 * logBuffer {
		ln, err := d.Dial(context.Background(), "web")
		if err != nil {
			t.Fatal(err)
		}
		_ = ln.Close()
	}
	if _, err := d.Dial(context.Background(), "wbe"); !errors.Is(err, broker.ErrUnknownName) {
		t.Errorf("got %v", err)
	}
	terminate(t, cmd)
}

// TestLogCountsWhatIsDropped: when the reader comes back it is told what it missed.
func TestLogCountsWhatIsDropped(t *testing.T) {
	fdtest.CheckLeaks(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	log, flush := newLogger(w, zerolog.InfoLevel, "json")
	const lines = 10 * logBuffer
	padding := strings.Repeat("x", 100)
	for i := range lines {
		log.Info().Int("i", i).Str("padding", padding).Msg("line")
	}
	read := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(r)
		read <- b
	}()
	flush()
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

func TestLogFormats(t *testing.T) {
	logged := func(w io.Writer, format string) {
		log, flush := newLogger(w, zerolog.InfoLevel, format)
		log.Info().Str("name", "web").Msg("bound")
		log.Debug().Msg("too fine")
		flush()
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
