package main

import (
	"context"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/complete"
)

// answerTime is how long a completion waits for the broker. A List of ten thousand listeners takes a second.
const answerTime = 2 * time.Second

// names are the listeners of the broker; none if no broker answers.
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

// otherNames completes names that are not among args.
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
