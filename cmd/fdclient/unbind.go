package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/fdbroker/fdbroker/protocol"
)

func unbind(ctx context.Context, c command) error {
	remaining, err := c.client.UnbindRemaining(ctx, c.args...)
	for _, name := range c.args {
		if text := remainingText(name, remaining); text != "" {
			fmt.Fprintln(c.out, "unbound", protocol.Printable(name+"; "+text))
		}
	}
	return err
}

// remainingText says which processes still have the socket of a listener that was unbound.
func remainingText(name string, remaining []protocol.Remaining) string {
	var holders, strays []string
	unseen := ""
	for _, r := range remaining {
		text := fmt.Sprintf("pid %d (%s)", r.PID, r.Command)
		if r.PID == 0 {
			text = "a process in another pid namespace"
		}
		switch {
		case r.Name != name:
		case r.PID == 0 && !r.Granted:
			unseen = "processes in another pid namespace got it, and may still accept on it"
		case r.Granted:
			holders = append(holders, text)
		default:
			strays = append(strays, text)
		}
	}
	var texts []string
	switch n := len(holders); {
	case n == 1:
		texts = append(texts, holders[0]+" still accepts on it")
	case n > 1:
		texts = append(texts, fmt.Sprintf("%d processes still accept on it: %s", n, strings.Join(holders, ", ")))
	}
	switch n := len(strays); {
	case n == 1:
		texts = append(texts, strays[0]+" still has the socket, without a grant, and may accept on it")
	case n > 1:
		texts = append(texts, fmt.Sprintf("%d processes still have the socket, without a grant, and may accept on it: %s",
			n, strings.Join(strays, ", ")))
	}
	if unseen != "" {
		texts = append(texts, unseen)
	}
	return strings.Join(texts, "; ")
}
