//go:build linux

package launch

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// listenFDsStart is SD_LISTEN_FDS_START of sd_listen_fds(3).
const listenFDsStart = 3

// listenKeys are the variables of sd_listen_fds(3). Inherited ones speak of
// descriptors that the program will not find.
var listenKeys = [...]string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"}

// listenEnv returns the variables of sd_listen_fds(3) for c's sockets.
func (c *Config) listenEnv() []string {
	if c.Stdin || c.NoListenEnv {
		return nil
	}
	names := make([]string, len(c.Sockets))
	for i, s := range c.Sockets {
		names[i] = s.Name
	}
	env := []string{
		"LISTEN_FDS=" + strconv.Itoa(len(c.Sockets)),
		"LISTEN_PID=" + strconv.Itoa(os.Getpid()),
		"LISTEN_FDNAMES=" + strings.Join(names, ":"),
	}
	if id, ok := ownPidfdID(); ok {
		env = append(env, "LISTEN_PIDFDID="+strconv.FormatUint(id, 10))
	}
	return env
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

// compose returns inherited without listenKeys, with set on top: what is set
// replaces what is inherited, and what was set before.
func compose(inherited, set []string) []string {
	env := make([]string, 0, len(inherited)+len(set))
	for _, kv := range inherited {
		if key := keyOf(kv); !slices.Contains(listenKeys[:], key) && !hasKey(set, key) {
			env = append(env, kv)
		}
	}
	for i, kv := range set {
		if !hasKey(set[i+1:], keyOf(kv)) {
			env = append(env, kv)
		}
	}
	return env
}

func keyOf(kv string) string {
	key, _, _ := strings.Cut(kv, "=")
	return key
}

func hasKey(env []string, key string) bool {
	return slices.ContainsFunc(env, func(kv string) bool { return keyOf(kv) == key })
}
