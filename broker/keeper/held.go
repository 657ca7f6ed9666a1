//go:build linux

package keeper

import (
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/scmrights"
)

// Held is a descriptor that is kept, by a name that is no other's.
type Held struct {
	Name string
	FD   *scmrights.FD
}

// held is all that is kept, in the order in which it came.
type held []Held

// keep takes fd. What had the name before is closed.
func (h *held) keep(name string, fd *scmrights.FD) {
	h.forget(name)
	*h = append(*h, Held{name, fd})
}

func (h *held) forget(name string) {
	i := slices.IndexFunc(*h, func(is Held) bool { return is.Name == name })
	if i >= 0 {
		_ = (*h)[i].FD.Close()
		*h = slices.Delete(*h, i, i+1)
	}
}

func (h *held) close() {
	for _, is := range *h {
		_ = is.FD.Close()
	}
	*h = nil
}

// A message is what the broker tells, in one datagram.
type message struct {
	text string
	fds  []*scmrights.FD
	lost bool // this process could not open its descriptor, and so has not read it
}

// keeps does what m says, if it is for the store, and reports whether it is. It takes
// the descriptors of m.
func (h *held) keeps(m message) bool {
	store, remove, name := false, false, ""
	for line := range strings.SplitSeq(m.text, "\n") {
		switch key, value, _ := strings.Cut(line, "="); {
		case line == "FDSTORE=1":
			store = true
		case line == "FDSTOREREMOVE=1":
			remove = true
		case key == "FDNAME":
			name = value
		}
	}
	valid := name != "" && len(name) <= 255 && !strings.ContainsAny(name, ":\x00")
	switch {
	case store && valid && len(m.fds) == 1:
		h.keep(name, m.fds[0])
		return true
	case remove && valid:
		h.forget(name)
	}
	scmrights.CloseAll(m.fds)
	return store || remove
}

// says reports whether m has a line.
func (m message) says(line string) bool {
	return slices.Contains(strings.Split(m.text, "\n"), line)
}
