// Package complete answers the completion scripts of the shells with the words for the cursor. It
// uses the flags that a command defines, so new flags and verbs are completed without further
// work. It does not parse command lines for use: it completes nothing in a wrong one.
package complete

import (
	"fmt"
	"io"
	"os"
	"slices"
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

// Line is the parsed words before the cursor.
type Line struct {
	// Args are the arguments before "--".
	Args []string
	// Rest is the index of the first word that is not for these flags: the word behind "--"
	// or, if flags are not interspersed, the first argument. It is -1 if there is none.
	Rest int
	// Value is the flag whose value the cursor is at; nil for none.
	Value *pflag.Flag
	// Given are the values of flags by their names.
	Given map[string]string
}

// Read reads the words before the cursor.
func Read(fs *pflag.FlagSet, interspersed bool, words []string) Line {
	l := Line{Rest: -1, Given: make(map[string]string)}
	for i := 0; i < len(words); i++ {
		name, isFlag := strings.CutPrefix(words[i], "--")
		switch {
		case words[i] == "--":
			l.Rest = i + 1
			return l
		case isFlag:
			name, value, hasValue := strings.Cut(name, "=")
			if f := fs.Lookup(name); f != nil && !hasValue && f.NoOptDefVal == "" {
				if i++; i == len(words) {
					l.Value = f
					return l
				}
				value = words[i]
			}
			l.Given[name] = value
		case strings.HasPrefix(words[i], "-") && words[i] != "-":
			// A value is the next word, or follows the letter.
			f := fs.ShorthandLookup(words[i][1:2])
			if f == nil {
				continue
			}
			if len(words[i]) == 2 && f.NoOptDefVal == "" {
				if i++; i == len(words) {
					l.Value = f
					return l
				}
			}
			l.Given[f.Name] = words[i]
		case !interspersed:
			l.Rest = i
			return l
		default:
			l.Args = append(l.Args, words[i])
		}
	}
	return l
}

// Flags completes word, which begins with "-", as a flag of fs or as the value behind its "=".
// Choices are the values of flags that have few.
func (l *Line) Flags(fs *pflag.FlagSet, word string, choices map[string][]string) Answer {
	if name, value, ok := strings.Cut(strings.TrimPrefix(word, "--"), "="); ok {
		if f := fs.Lookup(name); f != nil {
			a := Value(f, value, choices)
			a.Skip = len(word) - len(value)
			return a
		}
		return Answer{Kind: Words}
	}
	a := Answer{Kind: Words}
	fs.VisitAll(func(f *pflag.Flag) {
		_, repeats := f.Value.(pflag.SliceValue)
		if _, given := l.Given[f.Name]; f.Hidden || given && !repeats {
			return
		}
		_, usage := pflag.UnquoteUsage(f)
		a.Words = append(a.Words, Word{"--" + f.Name, usage})
	})
	if fs.Lookup("help") == nil {
		a.Words = append(a.Words, Word{"--help", "show help"})
	}
	return a.Filter(word)
}

// Value completes the value of a flag, by its name in the usage.
func Value(f *pflag.Flag, word string, choices map[string][]string) Answer {
	kind, _ := pflag.UnquoteUsage(f)
	switch {
	case len(choices[f.Name]) > 0:
		a := Answer{Kind: Words}
		for _, c := range choices[f.Name] {
			a.Words = append(a.Words, Word{Text: c})
		}
		return a.Filter(word)
	case f.Value.Type() == "bool":
		return Answer{Kind: Words, Words: []Word{{Text: "true"}, {Text: "false"}}}.Filter(word)
	case kind == "PATH" || kind == "FILE":
		return Answer{Kind: Files}
	case kind == "GROUP":
		return Answer{Kind: Groups}
	}
	return Answer{Kind: Words}
}

// Filter drops the words that do not begin with prefix.
func (a Answer) Filter(prefix string) Answer {
	a.Words = slices.DeleteFunc(a.Words, func(w Word) bool { return !strings.HasPrefix(w.Text, prefix) })
	return a
}

// Unquote returns a word as a shell does: without quotes and backslashes, and with the home directory for a "~" before
// a slash. A quote may be open. It expands nothing else, because a completion must run nothing.
func Unquote(word string) string {
	if home := os.Getenv("HOME"); home != "" && strings.HasPrefix(word, "~/") {
		word = home + word[1:]
	}
	if !strings.ContainsAny(word, `'"\`) {
		return word
	}
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(word); i++ {
		c := word[i]
		switch {
		case c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case c == '\\' && quote != '\'' && i+1 < len(word) && (quote == 0 || strings.IndexByte("\\\"$`", word[i+1]) >= 0):
			i++
			b.WriteByte(word[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
