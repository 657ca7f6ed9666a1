// Package complete answers the completion scripts of the shells with the words for the cursor. It
// uses the flags that a command defines, so new flags and verbs are completed without further
// work. It does not parse command lines for use: it completes nothing in a wrong one.
package complete

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/pflag"
)

// Verb is the hidden first word with which a script asks. The words of the line up to the
// cursor follow, without the command's name; the last one may be empty.
const Verb = "__complete"

// Kinds of answers.
const (
	Words   = "words"   // those of the answer
	Files   = "files"   // the names of files
	Groups  = "groups"  // the names of the system's groups
	Command = "command" // another command line, which begins at word number Skip
)

// Answer is the words that may be at the cursor.
type Answer struct {
	Kind string
	// Skip is how many bytes at the beginning of the word stay, such as "--socket=". Of a
	// Command, it is how many words are before it, including the first.
	Skip  int
	Words []Word
}

// Word is one completion, and its meaning.
type Word struct{ Text, Help string }

// Print writes the answer for the scripts: kind and Skip, then a line for each word. It leaves
// out words that have a meaning to a shell or a terminal.
func (a Answer) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, a.Kind, a.Skip)
	for _, word := range a.Words {
		if plain(word.Text) {
			b.WriteString(word.Text + "\t" + oneLine(word.Help) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Flags answers for a command that has only flags.
func Flags(w io.Writer, fs *pflag.FlagSet, words []string, choices map[string][]string) error {
	before, word := Cursor(words)
	line := Read(fs, true, before)
	switch {
	case line.Value != nil:
		return Value(line.Value, word, choices).Print(w)
	case line.Rest >= 0:
		return Answer{Kind: Words}.Print(w)
	}
	return line.Flags(fs, word, choices).Print(w)
}

// Cursor splits the words into those before the cursor and the one at it.
func Cursor(words []string) (before []string, word string) {
	if len(words) == 0 {
		return nil, ""
	}
	last := len(words) - 1
	for _, w := range words[:last] {
		before = append(before, Unquote(w))
	}
	return before, Unquote(words[last])
}

// plain reports whether text has no special meaning to any shell.
func plain(text string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	return text != "" && strings.Trim(text, letters) == ""
}

func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}
