//go:build linux

package main

import (
	"errors"
	"fmt"

	"github.com/fdbroker/fdbroker/broker/socket"
)

// specs returns the listeners of flags and configuration file, in that order. The
// error joins one for each spec that is wrong.
func specs(binds []string, config string) ([]socket.Spec, error) {
	all := make([]socket.Spec, 0, len(binds))
	var errs []error
	where := make(map[string]string, len(binds))
	add := func(text, from string) {
		spec, err := socket.ParseSpec(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", from, err))
			return
		}
		if first, ok := where[spec.Name]; ok {
			text := fmt.Sprintf("%s: the name %q is given twice", from, spec.Name)
			if first != from {
				text += ", first in " + first
			}
			errs = append(errs, errors.New(text))
			return
		}
		where[spec.Name] = from
		all = append(all, spec)
	}
	for _, text := range binds {
		add(text, "--bind")
	}
	if config != "" {
		if err := readConfig(config, add); err != nil {
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}
