package main

import (
	"strings"

	"github.com/fdbroker/fdbroker/internal/complete"
	"github.com/fdbroker/fdbroker/internal/logging"
)

// answer completes the last of the words of a command line, without "fdclient".
func answer(words []string) complete.Answer {
	before, word := complete.Cursor(words)
	root := rootFlags(new(string), new(bool))
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
	name, args := before[line.Rest], before[line.Rest+1:]
	if v := findVerb(name); v != nil {
		a := v.answer(line.Given["socket"], args, word)
		if a.Kind == complete.Command {
			a.Skip += len(before) - len(args) + 1
		}
		return a
	}
	if name == "help" && len(args) == 0 {
		return verbNames().Filter(word)
	}
	return complete.Answer{Kind: complete.Words}
}

// answer completes the word behind a verb and the words before it.
func (v *verb) answer(socket string, before []string, word string) complete.Answer {
	fs, _ := v.flags(new(string))
	line := complete.Read(fs, true, before)
	if s, ok := line.Given["socket"]; ok {
		socket = s
	}
	a := complete.Answer{Kind: complete.Words}
	switch {
	case line.Value != nil:
		return complete.Value(line.Value, word, logging.FlagValues())
	case line.Rest >= 0 && v.runs:
		return complete.Answer{Kind: complete.Command, Skip: line.Rest}
	case line.Rest >= 0:
		return a
	case v.words != nil && len(line.Args) < v.takes.most:
		a.Words = v.words(line.Args, socket)
	}
	if strings.HasPrefix(word, "-") || len(a.Words) == 0 && len(line.Args) == 0 && word == "" {
		a = line.Flags(fs, word, logging.FlagValues())
	}
	if v.runs && len(line.Args) > 0 && a.Kind == complete.Words && a.Skip == 0 {
		a.Words = append(a.Words, complete.Word{Text: "--", Help: "the command follows"})
	}
	return a.Filter(word[a.Skip:])
}

// verbNames completes a verb, or one of more.
func verbNames(more ...string) complete.Answer {
	a := complete.Answer{Kind: complete.Words}
	for _, v := range verbs() {
		a.Words = append(a.Words, complete.Word{Text: v.name(), Help: v.summary()})
	}
	for _, name := range more {
		a.Words = append(a.Words, complete.Word{Text: name, Help: "show help"})
	}
	return a
}
