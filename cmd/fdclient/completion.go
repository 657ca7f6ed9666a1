package main

import (
	"context"
	"embed"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/internal/complete"
)

// The scripts only ask the commands (complete.Verb), so they know every flag.
//
//go:embed completion
var scripts embed.FS

var completionVerb = verb{
	usage: "completion bash|zsh|fish",
	help: `Prints a script that makes the shell complete commands of fdclient and fdbroker: verbs,
flags, and the names of the running broker's listeners. Put it into the shell's
directory for such scripts, or read it when the shell starts:

  source <(fdclient completion bash)          # in ~/.bashrc
  source <(fdclient completion zsh)           # in ~/.zshrc, after compinit
  fdclient completion fish | source           # in ~/.config/fish/config.fish
`,
	act:   completion,
	takes: arguments{1, 1, "give one shell: bash, zsh or fish"},
	words: func([]string, string) []complete.Word {
		return []complete.Word{{Text: "bash"}, {Text: "zsh"}, {Text: "fish"}}
	},
}

func completion(_ context.Context, c command) error {
	script, err := scripts.ReadFile("completion/" + c.args[0])
	if err != nil {
		return usagef("no completion for %q: give bash, zsh or fish", c.args[0])
	}
	_, err = c.out.Write(script)
	return err
}

// answerTime is how long a completion waits for the broker. A List of ten thousand listeners takes a second.
const answerTime = 2 * time.Second

// otherNames completes the names of listeners that are not among args. There are none if no broker answers.
func otherNames(args []string, socket string) (words []complete.Word) {
	list, _ := listAgain(socket, answerTime)
	for _, l := range list.Listeners {
		if !slices.Contains(args, l.Name) {
			words = append(words, complete.Word{Text: l.Name, Help: l.Network + " " + l.Address})
		}
	}
	return words
}
