package complete

import (
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

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
