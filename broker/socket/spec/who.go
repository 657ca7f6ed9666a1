package spec

import (
	"cmp"
	"errors"
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

func parseWho(text string) (w Who, err error) {
	kind, value, _ := strings.Cut(text, ":")
	var id uint32
	switch {
	case text == "any":
		return Who{text: text, kind: kind}, nil
	case kind == "any":
		return w, fmt.Errorf("%q: \"any\" takes no value", text)
	case kind == "user" || kind == "group":
		id, err = lookup(kind, value)
	case kind == "uid" || kind == "gid":
		id, err = parseID(value)
		value = fmt.Sprint(id)
	default:
		return w, fmt.Errorf("%q: use user:NAME, uid:N, group:NAME, gid:N or any", text)
	}
	switch {
	case err != nil:
		return Who{}, fmt.Errorf("%q: %w", text, err)
	case id == overflowID:
		const why = "is what the kernel shows for every user that it cannot name, so it cannot be let in by id"
		return Who{}, fmt.Errorf("%q: id %d %s", text, overflowID, why)
	}
	return Who{kind + ":" + value, kind, id}, nil
}

// lookup returns the id of the user or group, as kind says, of that name.
func lookup(kind, name string) (uint32, error) {
	if name == "" {
		return 0, fmt.Errorf("the %s's name is empty", kind)
	}
	u, g, err := new(user.User), new(user.Group), error(nil)
	if kind == "user" {
		u, err = user.Lookup(name)
	} else {
		g, err = user.LookupGroup(name)
	}
	switch {
	case errors.As(err, new(user.UnknownUserError)), errors.As(err, new(user.UnknownGroupError)):
		return 0, fmt.Errorf("there is no %s %q", kind, name)
	case err != nil:
		return 0, fmt.Errorf("%s %q: %w", kind, name, err)
	}
	return parseID(cmp.Or(u.Uid, g.Gid))
}

// parseID parses a uid or gid; the highest number is the kernel's "none".
func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id == 1<<32-1 {
		return 0, fmt.Errorf("%q is not a number from 0 to 4294967294", text)
	}
	return uint32(id), nil
}
