//go:build linux

package plainget

import (
	"os"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/protocol"
)

// call is a plain get.
type call struct {
	socket  string // "": the default
	names   []string
	command []string
}

// parse returns the call that the words of a command line are, or false where it is not
// plain. What is wrong with such a line is not for this package to say.
func parse(words []string) (c call, ok bool) {
	verb := false
	for i := 1; i < len(words); i++ {
		word := words[i]
		socket, isSocket := strings.CutPrefix(word, "--socket=")
		switch {
		case word == "--":
			c.command = words[i+1:]
			return c, verb && c.isPlain()
		case isSocket:
			c.socket = socket
		case word == "--socket" && i+1 < len(words):
			i++
			c.socket = words[i]
		case strings.HasPrefix(word, "-"):
			return c, false
		case verb:
			c.names = append(c.names, word)
		case word == "get":
			verb = true
		default:
			return c, false
		}
	}
	return c, false
}

// isPlain reports whether the names and the command are such as get takes, and have no
// placeholders.
func (c *call) isPlain() bool {
	if len(c.names) == 0 || len(c.names) > protocol.MaxNamesInCall || len(c.command) == 0 || c.command[0] == "" {
		return false
	}
	for i, name := range c.names {
		if slices.Contains(c.names[:i], name) {
			return false
		}
	}
	return !slices.ContainsFunc(c.command, func(word string) bool { return strings.Contains(word, "{") })
}

// path returns where to look for the broker first. Where no connection can be had there it
// is left to the verb, which knows of another place.
func (c *call) path() string {
	if c.socket != "" {
		return c.socket
	}
	return protocol.DialPaths(os.Geteuid(), os.Getenv)[0]
}
