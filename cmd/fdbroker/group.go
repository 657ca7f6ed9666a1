//go:build linux

package main

import (
	"os/user"
	"strconv"
)

// groupID returns the number of a group given by name or number.
func groupID(name string) (int, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}
