package complete

import (
	"os"
	"strings"
)

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
