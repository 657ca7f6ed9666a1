package main

import (
	"fmt"
	"path"
	"strings"

	"github.com/fdbroker/fdbroker/internal/launch"
)

// withoutDescriptors returns an error if the command is one that starts servers, but never with the descriptors from 3
// on: node marks all that it inherits close-on-exec (uv_disable_stdio_inheritance), and sudo and doas close them
// (closefrom). The server would fail in a way that does not say why.
func withoutDescriptors(program *launch.Config) error {
	if program.Stdin {
		return nil
	}
	switch name := path.Base(program.Command[0]); name {
	case "npm", "npx", "pnpm", "yarn":
		return fmt.Errorf("warning: %s starts programs without the sockets; use --stdin --blocking=false, and listen({fd: 0}) in the server, or start it with node", name)
	case "sudo", "doas":
		for _, word := range program.Command[1:] { // sudo -C NUM leaves those below NUM open
			if strings.HasPrefix(word, "-C") || strings.HasPrefix(word, "--close-from") {
				return nil
			}
		}
		return fmt.Errorf("warning: %s closes the sockets; put it before fdclient, or use setpriv or runuser", name)
	}
	return nil
}
