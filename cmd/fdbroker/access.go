package main

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
)

// shutOut says, in words, which entries of allow= have no effect, because the control socket's mode keeps their
// processes from connecting at all. It is empty if there are none. Who may pass the directories above the control socket
// is another question.
func shutOut(listeners []spec.Spec, c server.ControlConfig) string {
	g := gate{mode: c.Mode.Perm(), gid: os.Getegid(), uid: os.Geteuid()}
	if c.GID != nil {
		g.gid = *c.GID
	}
	if c.Mode == 0 {
		g.mode = 0o600
	}
	var out []string
	for _, s := range listeners {
		for _, w := range s.Opts().Allow {
			if text := "allow=" + w.String(); !slices.Contains(out, text) && !g.lets(w) {
				out = append(out, text)
			}
		}
	}
	if len(out) == 0 {
		return ""
	}
	const most = 4
	list := strings.Join(out[:min(len(out), most)], ", ")
	if len(out) > most {
		list += " and others"
	}
	verb := "has"
	if len(out) > 1 {
		verb = "have"
	}
	return fmt.Sprintf("%s %s no effect: the control socket is for %s only (--socket-group, --socket-mode)", list, verb, g)
}

// A gate is the control socket's owner and mode.
type gate struct {
	mode     os.FileMode
	uid, gid int
}

const groupWrites, othersWrite os.FileMode = 0o020, 0o002

// lets reports whether a process to which w applies may connect. In doubt it may.
func (g gate) lets(w spec.Who) bool {
	if g.mode&othersWrite != 0 {
		return true
	}
	kind, name, _ := strings.Cut(w.String(), ":")
	switch kind {
	case "user", "uid":
		return g.letsUser(kind, name)
	case "group", "gid":
		return g.mode&groupWrites != 0 && (w.Matches(0, []uint32{uint32(g.gid)}) || g.gid != os.Getegid())
	}
	return g.mode&groupWrites != 0 // any
}

func (g gate) letsUser(kind, name string) bool {
	lookUp := user.Lookup
	if kind == "uid" {
		lookUp = user.LookupId
		if id, err := strconv.Atoi(name); err == nil && (id == 0 || id == g.uid) {
			return true
		}
	}
	u, err := lookUp(name)
	if err != nil {
		return g.mode&groupWrites != 0
	}
	if id, err := strconv.Atoi(u.Uid); err == nil && (id == 0 || id == g.uid) {
		return true
	}
	groups, err := u.GroupIds()
	return g.mode&groupWrites != 0 && (err != nil || slices.Contains(groups, strconv.Itoa(g.gid)))
}

// String says for whom the control socket is.
func (g gate) String() string {
	who := "root"
	if g.uid != 0 {
		who = fmt.Sprintf("root and uid %d", g.uid)
	}
	if g.mode&groupWrites != 0 {
		who = strings.Replace(who, " and ", ", ", 1) + fmt.Sprintf(" and gid %d", g.gid)
	}
	return who
}
