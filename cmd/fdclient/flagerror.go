//go:build linux

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
)

// flagError names the values of a flag, if err says that its value is no number or no duration.
func flagError(err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	f := invalid.GetFlag()
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand
	}
	switch f.Value.Type() {
	case "int", "int64":
		return fmt.Errorf("%s %q: use a number", name, invalid.GetValue())
	case "duration":
		return fmt.Errorf("%s %q: use a duration such as 10s", name, invalid.GetValue())
	}
	return err
}
