package keeper

import (
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/scmrights"
)

// Held is a descriptor in the store. No other one has its name.
type Held struct {
	Name string
	FD   *scmrights.FD
}

// held is the store, in the order in which the descriptors came.
type held []Held

// store takes fd, and closes the descriptor that had the name before.
func (h *held) store(name string, fd *scmrights.FD) {
	h.remove(name)
	*h = append(*h, Held{name, fd})
}

func (h *held) remove(name string) {
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

// message is a datagram of the broker.
type message struct {
	text string
	fds  []*scmrights.FD
	lost bool // this process could not open the descriptor, so it has not read the message
}

// apply changes the store as m says, and returns false if m is not for the store. It takes the descriptors of m.
func (h *held) apply(m message) bool {
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
		h.store(name, m.fds[0])
		return true
	case remove && valid:
		h.remove(name)
	}
	scmrights.CloseAll(m.fds)
	return store || remove
}

// has reports whether m has a line.
func (m message) has(line string) bool {
	return slices.Contains(strings.Split(m.text, "\n"), line)
}
