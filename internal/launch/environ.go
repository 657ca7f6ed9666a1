package launch

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/internal/activation"
)

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

// compose returns inherited with set on top. A later setting replaces an earlier one of the
// same key. Inherited variables about descriptors are dropped: the program has others.
func compose(inherited, set []string) []string {
	env := make([]string, 0, len(inherited)+len(set))
	for _, kv := range inherited {
		if key := keyOf(kv); !activation.IsListenVariable(key) && !hasKey(set, key) {
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
