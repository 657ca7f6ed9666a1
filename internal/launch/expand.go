package launch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// expander replaces placeholders.
//
// A placeholder is {fd}, {addr}, {port} or {path}, for the first socket, or the same with a name, such as {fd:web}, for
// the first socket of that name. Anything else in braces is text: other words, names that were not fetched, JSON. So is
// ${port}, with or without a name, which belongs to a shell. What has been put in is not looked at again.
//
// {addr} is the address as bound. A Unix socket has a {path}, any other a {port}. Asking for
// the other one is an error, because a server that got the braces would fail less obviously.
type expander struct {
	sockets []Socket
	first   int // the number of the first socket
}

var placeholderKinds = [...]string{"fd", "addr", "port", "path"}

// expand returns text with its placeholders replaced.
func (x expander) expand(text string) (string, error) {
	var b strings.Builder
	done := 0 // text before it is in b
	for i := 0; i < len(text); i++ {
		if text[i] != '{' || i > 0 && text[i-1] == '$' {
			continue
		}
		kind, socket, size := x.match(text[i:])
		if size == 0 {
			continue
		}
		value, err := x.value(kind, socket)
		if err != nil {
			return "", fmt.Errorf("%s: %w", text[i:i+size], err)
		}
		b.WriteString(text[done:i])
		b.WriteString(value)
		done = i + size
		i = done - 1
	}
	if done == 0 {
		return text, nil
	}
	b.WriteString(text[done:])
	return b.String(), nil
}

// match recognizes the placeholder that text begins with, size bytes long. With size 0 there is none.
func (x expander) match(text string) (kind string, socket, size int) {
	for _, kind := range placeholderKinds {
		rest, ok := strings.CutPrefix(text[1:], kind)
		if !ok {
			continue
		}
		if strings.HasPrefix(rest, "}") {
			return kind, 0, len("{}") + len(kind)
		}
		for i, s := range x.sockets {
			if strings.HasPrefix(rest, ":"+s.Name+"}") {
				return kind, i, len("{:}") + len(kind) + len(s.Name)
			}
		}
	}
	return "", 0, 0
}

// value returns the value of a placeholder of that kind for a socket.
func (x expander) value(kind string, socket int) (string, error) {
	s := x.sockets[socket]
	isPath := strings.HasPrefix(s.Network, "unix")
	switch kind {
	case "fd":
		return strconv.Itoa(x.first + socket), nil
	case "port":
		colon := strings.LastIndexByte(s.Address, ':')
		if isPath || colon < 0 {
			return "", fmt.Errorf("%s is %s %s, which has no port; {addr:%s} is its address", s.Name, s.Network, s.Address, s.Name)
		}
		return s.Address[colon+1:], nil
	case "path":
		if !isPath {
			return "", fmt.Errorf("%s is %s %s, which has no path; {addr:%s} is its address", s.Name, s.Network, s.Address, s.Name)
		}
	}
	return s.Address, nil
}

// settings returns K=TEMPLATE settings with their templates expanded.
func (x expander) settings(templates []string) ([]string, error) {
	set := make([]string, 0, len(templates))
	for _, t := range templates {
		key, template, ok := strings.Cut(t, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--env %q is not of the form NAME=VALUE", t)
		}
		value, err := x.expand(template)
		if err != nil {
			return nil, fmt.Errorf("in --env %q: %w", t, err)
		}
		set = append(set, key+"="+value)
	}
	return set, nil
}

// CheckNames returns an error if a text has a placeholder with a name that is not among those that are asked for. The
// program would be given the braces.
func CheckNames(names []string, texts ...string) error {
	for _, text := range texts {
		for i := range text {
			if text[i] != '{' || i > 0 && text[i-1] == '$' {
				continue
			}
			inside, _, closed := strings.Cut(text[i+1:], "}")
			kind, name, named := strings.Cut(inside, ":")
			if !closed || !named || !slices.Contains(placeholderKinds[:], kind) || !isName(name) || slices.Contains(names, name) {
				continue
			}
			return fmt.Errorf("{%s}: %q was not asked for (asked: %s)", inside, name, strings.Join(names, ", "))
		}
	}
	return nil
}

// isName reports whether text could be a listener's name.
func isName(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-", r)
	})
}
