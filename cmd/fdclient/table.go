package main

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/fdbroker/fdbroker/internal/terminal"
	"github.com/fdbroker/fdbroker/protocol"
)

// table prints rows in aligned columns. It makes cells printable, because other users choose some of the texts.
type table struct {
	header []string
	rows   [][]string
	loud   map[int]bool // rows that are highlighted on a terminal
}

func (t *table) add(loud bool, cells ...string) {
	for i, c := range cells {
		cells[i] = protocol.Printable(c)
	}
	if loud {
		if t.loud == nil {
			t.loud = make(map[int]bool)
		}
		t.loud[len(t.rows)] = true
	}
	t.rows = append(t.rows, cells)
}

func (t *table) print(w io.Writer) error {
	width := make([]int, len(t.header))
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	color := highlights(w)
	writeRow(&b, t.header, width)
	b.WriteByte('\n')
	for i, row := range t.rows {
		if color && t.loud[i] {
			b.WriteString("\x1b[1;31m")
			writeRow(&b, row, width)
			b.WriteString("\x1b[0m\n")
			continue
		}
		writeRow(&b, row, width)
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeRow(b *strings.Builder, row []string, width []int) {
	for i, c := range row {
		b.WriteString(c)
		if i < len(row)-1 {
			b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)+2))
		}
	}
}

// highlights reports whether rows may be highlighted on w.
func highlights(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && terminal.Is(w)
}
