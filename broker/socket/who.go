//go:build linux

package socket

import (
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// overflowID is what the kernel shows instead of a uid or gid that has no number
// in our user namespace (/proc/sys/kernel/overflowuid): it could be anybody.
const overflowID = 65534

type whoKind uint8

const (
	whoNobody whoKind = iota
	whoAny
	whoUser  // its text is "user:NAME"
	whoUID   // "uid:N"
	whoGroup // "group:NAME"
	whoGID   // "gid:N"
)

// Who is one entry of the option allow=: user:NAME, uid:N, group:NAME, gid:N or
// any. Its names were turned into ids when it was parsed. The zero Who matches
// nobody.
type Who struct {
	text string
	id   uint32
	kind whoKind
}

// String returns w as a spec has it.
func (w Who) String() string { return w.text }

// Matches reports whether w admits a process of that uid whose primary and
// supplementary groups are gids. Ids of 65534 match only "any": the kernel shows
// that number for everybody whom our user namespace does not know.
func (w Who) Matches(uid uint32, gids []uint32) bool {
	switch w.kind {
	case whoAny:
		return true
	case whoUser, whoUID:
		return w.id != overflowID && w.id == uid
	case whoGroup, whoGID:
		return w.id != overflowID && slices.Contains(gids, w.id)
	}
	return false
}

// parseWho parses one entry of allow=.
func parseWho(text string) (Who, error) {
	const allowed = "allowed are user:NAME, uid:N, group:NAME, gid:N and any"
	kind, value, _ := strings.Cut(text, ":")
	var w Who
	var err error
	switch kind {
	case "any":
		if text != "any" {
			return Who{}, fmt.Errorf("%q: \"any\" takes no value", text)
		}
		return Who{text: "any", kind: whoAny}, nil
	case "user":
		w.kind = whoUser
		w.id, err = lookupUser(value)
	case "group":
		w.kind = whoGroup
		w.id, err = lookupGroup(value)
	case "uid", "gid":
		w.kind = whoUID
		if kind == "gid" {
			w.kind = whoGID
		}
		w.id, err = parseID(value)
		value = strconv.FormatUint(uint64(w.id), 10)
	default:
		return Who{}, fmt.Errorf("%q: %s", text, allowed)
	}
	if err != nil {
		return Who{}, fmt.Errorf("%q: %w", text, err)
	}
	if w.id == overflowID {
		return Who{}, fmt.Errorf("%q: id %d is what the kernel shows for whoever it cannot name, so it cannot be let in by id", text, overflowID)
	}
	w.text = kind + ":" + value
	return w, nil
}

// lookupUser returns the uid of the user of that name.
func lookupUser(name string) (uint32, error) {
	if name == "" {
		return 0, fmt.Errorf("the user's name is empty")
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("no user is called %q: %w", name, err)
	}
	return parseID(u.Uid)
}

// lookupGroup returns the gid of the group of that name.
func lookupGroup(name string) (uint32, error) {
	if name == "" {
		return 0, fmt.Errorf("the group's name is empty")
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("no group is called %q: %w", name, err)
	}
	return parseID(g.Gid)
}

// parseID parses a uid or gid; the highest number is the kernel's "none".
func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id == 1<<32-1 {
		return 0, fmt.Errorf("%q is not a number from 0 to 4294967294", text)
	}
	return uint32(id), nil
}
