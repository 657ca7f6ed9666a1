package spec

import (
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// overflowID is the kernel's number for every uid or gid that has none in our user namespace: it may be any user.
const overflowID = 65534

// Who is one entry of the option allow=: user:NAME, uid:N, group:NAME, gid:N or any. Parsing has turned its names into
// ids. The zero Who matches no process.
type Who struct {
	text string
	kind string // before the colon
	id   uint32
}

// String returns w as a spec has it.
func (w Who) String() string { return w.text }

// Matches reports whether w admits a process of that uid whose primary and supplementary groups are gids. Id 65534
// matches only "any": the kernel shows that number for every user that our user namespace does not know.
func (w Who) Matches(uid uint32, gids []uint32) bool {
	switch w.kind {
	case "any":
		return true
	case "user", "uid":
		return w.id != overflowID && w.id == uid
	case "group", "gid":
		return w.id != overflowID && slices.Contains(gids, w.id)
	}
	return false
}

func parseWho(text string) (Who, error) {
	kind, value, _ := strings.Cut(text, ":")
	var id uint32
	var err error
	switch kind {
	case "any":
		if text != "any" {
			return Who{}, fmt.Errorf("%q: \"any\" takes no value", text)
		}
		return Who{text: text, kind: kind}, nil
	case "user", "group":
		id, err = lookup(kind, value)
	case "uid", "gid":
		id, err = parseID(value)
		value = strconv.FormatUint(uint64(id), 10)
	default:
		return Who{}, fmt.Errorf("%q: allowed are user:NAME, uid:N, group:NAME, gid:N and any", text)
	}
	switch {
	case err != nil:
		return Who{}, fmt.Errorf("%q: %w", text, err)
	case id == overflowID:
		const why = "is what the kernel shows for whoever it cannot name, so it cannot be let in by id"
		return Who{}, fmt.Errorf("%q: id %d %s", text, overflowID, why)
	}
	return Who{kind + ":" + value, kind, id}, nil
}

// lookup returns the id of the user or group, as kind says, of that name.
func lookup(kind, name string) (uint32, error) {
	if name == "" {
		return 0, fmt.Errorf("the %s's name is empty", kind)
	}
	var id string
	var err error
	if kind == "user" {
		var u *user.User
		if u, err = user.Lookup(name); err == nil {
			id = u.Uid
		}
	} else {
		var g *user.Group
		if g, err = user.LookupGroup(name); err == nil {
			id = g.Gid
		}
	}
	if err != nil {
		return 0, fmt.Errorf("no %s is called %q: %w", kind, name, err)
	}
	return parseID(id)
}

// parseID parses a uid or gid; the highest number is the kernel's "none".
func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id == 1<<32-1 {
		return 0, fmt.Errorf("%q is not a number from 0 to 4294967294", text)
	}
	return uint32(id), nil
}
