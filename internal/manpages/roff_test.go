package manpages

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

var (
	longFlag     = regexp.MustCompile(`(^|[^\w-])--?([a-z])`)
	nextSentence = regexp.MustCompile(`([a-z][.?!]['")]*) +(['"]?[A-Z])`) // begins a line, by mdoc's rules
)

// escape makes a line of text one of mdoc.
func escape(line string) string {
	line = strings.ReplaceAll(line, `\`, `\e`)
	line = longFlag.ReplaceAllStringFunc(line, func(s string) string { return strings.ReplaceAll(s, "-", `\-`) })
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line
	}
	return line
}

// prose makes mdoc of help text: paragraphs, and lines that are indented as they are.
func prose(text string) string {
	var b strings.Builder
	literal := false
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		indented := strings.HasPrefix(line, "  ")
		switch {
		case indented && !literal:
			b.WriteString(".Bd -literal -offset indent\n")
		case literal && !indented:
			b.WriteString(".Ed\n")
		}
		literal = indented
		switch {
		case indented:
			b.WriteString(strings.ReplaceAll(strings.ReplaceAll(line[2:], `\`, `\e`), "-", `\-`) + "\n")
		case line != "":
			b.WriteString(nextSentence.ReplaceAllString(escape(line), "$1\n$2") + "\n")
		case i+1 < len(lines) && !strings.HasPrefix(lines[i+1], "  "):
			b.WriteString(".Pp\n")
		}
	}
	if literal {
		b.WriteString(".Ed\n")
	}
	return b.String()
}

// synopsis makes mdoc macros of a usage line.
func synopsis(usage string) string {
	var words []string
	for i, w := range strings.Fields(usage) {
		for strings.HasPrefix(w, "[") {
			words = append(words, "Oo")
			w = w[1:]
		}
		ends := 0 // of brackets that began before this word, or with it
		for strings.HasSuffix(w, "]") && strings.Count(w, "]") > strings.Count(w, "[") {
			w = w[:len(w)-1]
			ends++
		}
		switch {
		case strings.HasPrefix(w, "--"):
			words = append(words, "Fl", w[1:])
		case i == 0:
			words = append(words, "Cm", w)
		case strings.Contains(w, "|") && strings.ToLower(w) == w:
			words = append(words, "Cm", strings.ReplaceAll(w, "|", " | "))
		default:
			words = append(words, "Ar", w)
		}
		for range ends {
			words = append(words, "Oc") // not Op, which reaches to the end of the line
		}
	}
	return strings.Join(words, " ")
}

// flagList is a list of flags with their meaning.
func flagList(flags []flagHelp) string {
	var b strings.Builder
	b.WriteString(".Bl -tag -width Ds\n")
	for _, f := range flags {
		b.WriteString(".It ")
		if f.short != "" {
			b.WriteString("Fl " + f.short + " , ")
		}
		b.WriteString("Fl -" + f.name)
		switch {
		case f.optional != "":
			b.WriteString(" Ns Oo = Ns Ar " + f.value + " Oc")
		case f.value != "":
			b.WriteString(" Ar " + f.value)
		}
		b.WriteString("\n" + escape(sentence(f.usage)) + "\n")
	}
	b.WriteString(".El\n")
	return b.String()
}

// sentence makes a sentence of a flag's usage.
func sentence(text string) string {
	first := []rune(text)
	if len(first) > 1 && unicode.IsLower(first[1]) {
		first[0] = unicode.ToUpper(first[0])
	}
	text = string(first)
	if rest, value, ok := strings.Cut(text, " (default "); ok && !strings.Contains(value, ",") {
		return rest + "; default: " + strings.Trim(strings.TrimSuffix(value, ")"), `"`) + "."
	}
	return text + "."
}

// verbSections has a subsection for each verb.
func verbSections(c commands) string {
	var b strings.Builder
	for _, name := range c.verbs {
		h := c.verb[name]
		text, _, _ := strings.Cut(h.text, "\n\nExit status:") // has a section of its own
		fmt.Fprintf(&b, ".Ss %s\n.D1 Nm fdclient %s\n.Pp\n%s%s", name, synopsis(h.usage), prose(text), flagList(h.flags))
	}
	return b.String()
}

func verbSynopses(c commands) string {
	var b strings.Builder
	for _, name := range c.verbs {
		fmt.Fprintf(&b, ".Nm\n.Op Fl -socket Ar PATH\n.%s\n", synopsis(c.verb[name].usage))
	}
	return b.String()
}
