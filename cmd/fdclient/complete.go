//go:build linux

package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/complete"
)

// answerTime is how long a completion waits for the broker: somebody has pressed Tab,
// and a List of ten thousand listeners takes a second.
const answerTime = 2 * time.Second

// answer says what may stand at the end of a command line, which the words up to the
// cursor are, without "fdclient".
func answer(words []string) complete.Answer {
	before, word := complete.Cursor(words)
	var socket string
	root := rootFlags(&socket, new(bool))
	line := complete.Read(root, false, before)
	switch {
	case line.Value != nil:
		return complete.Value(line.Value, word, nil)
	case line.Rest >= 0 && line.Rest < len(before): // the verb is there
	case strings.HasPrefix(word, "-"):
		return line.Flags(root, word, nil)
	default:
		return verbNames("help").Filter(word)
	}
	socket, _ = line.Flag("socket")
	name, args := before[line.Rest], before[line.Rest+1:]
	for _, v := range verbs() {
		if v.name == name {
			a := v.answer(socket, args, word)
			if a.Kind == complete.Command {
				a.Skip += len(before) - len(args) + 1
			}
			return a
		}
	}
	if name == "help" && len(args) == 0 {
		return verbNames().Filter(word)
	}
	return complete.Answer{Kind: complete.Words}
}

// answer completes the word behind a verb and its arguments.
func (v verb) answer(socket string, before []string, word string) complete.Answer {
	fs, _ := v.flags(new(string))
	line := complete.Read(fs, true, before)
	if s, ok := line.Flag("socket"); ok {
		socket = s
	}
	a := complete.Answer{Kind: complete.Words}
	switch {
	case line.Value != nil:
		return complete.Value(line.Value, word, nil)
	case line.Rest >= 0 && v.runs:
		return complete.Answer{Kind: complete.Command, Skip: line.Rest}
	case line.Rest >= 0:
		return a
	case v.words != nil:
		a.Words = v.words(line.Args, socket)
	}
	if strings.HasPrefix(word, "-") || len(a.Words) == 0 && len(line.Args) == 0 && word == "" {
		a = line.Flags(fs, word, nil)
	}
	if v.runs && len(line.Args) > 0 && a.Kind == complete.Words && a.Skip == 0 {
		a.Words = append(a.Words, complete.Word{Text: "--", Help: "the command is behind it"})
	}
	return a.Filter(word[a.Skip:])
}

// verbNames are the verbs, as the usage describes them, and more.
func verbNames(more ...string) complete.Answer {
	a := complete.Answer{Kind: complete.Words}
	for _, v := range verbs() {
		a.Words = append(a.Words, complete.Word{Text: v.name, Help: v.summary()})
	}
	for _, name := range more {
		a.Words = append(a.Words, complete.Word{Text: name, Help: "show help"})
	}
	return a
}

// summary is what the usage says of the verb in its list.
func (v verb) summary() string {
	_, list, _ := strings.Cut(usage, "\nVerbs:\n")
	for line := range strings.SplitSeq(list, "\n") {
		if words, summary, ok := strings.Cut(strings.TrimSpace(line), "  "); ok && strings.Fields(words)[0] == v.name {
			return strings.TrimSpace(summary)
		}
	}
	return ""
}

// names are the listeners of the broker that answers; none where none does.
func names(socket string) []complete.Word {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	client := broker.Client{Socket: socket}
	defer client.Close()
	list, err := client.List(ctx)
	if err != nil {
		return nil
	}
	var words []complete.Word
	for _, l := range list.Listeners {
		words = append(words, complete.Word{Text: l.Name, Help: l.Network + " " + l.Address})
	}
	return words
}

// otherNames completes the names behind others.
func otherNames(args []string, socket string) []complete.Word {
	return slices.DeleteFunc(names(socket), func(w complete.Word) bool { return slices.Contains(args, w.Text) })
}

// oneName completes the only name.
func oneName(args []string, socket string) []complete.Word {
	if len(args) > 0 {
		return nil
	}
	return names(socket)
}
