//go:build linux

package server

import (
	"slices"
	"strings"
)

// index is the listeners in the order of their names, by which it finds them. With
// thousands of them a map would take four times the memory, and is not much faster.
type index []*listener

// at returns where the listener of that name is, or would be.
func (x index) at(name string) (i int, is bool) {
	return slices.BinarySearchFunc(x, name, func(l *listener, name string) int {
		return strings.Compare(l.socket.Name(), name)
	})
}

// get returns the listener of that name, or nil.
func (x index) get(name string) *listener {
	if i, is := x.at(name); is {
		return x[i]
	}
	return nil
}

// put adds l, in place of another one of its name.
func (x *index) put(l *listener) {
	i, is := x.at(l.socket.Name())
	if is {
		(*x)[i] = l
		return
	}
	*x = slices.Insert(*x, i, l)
}

// add adds listeners, of whose names there are none: thousands, it may be.
func (x *index) add(all []*listener) {
	if len(all) == 1 {
		x.put(all[0])
		return
	}
	*x = append(slices.Grow(*x, len(all)), all...)
	slices.SortFunc(*x, func(a, b *listener) int { return strings.Compare(a.socket.Name(), b.socket.Name()) })
}

// remove takes the listener of that name out, if there is one.
func (x *index) remove(name string) {
	if i, is := x.at(name); is {
		*x = slices.Delete(*x, i, i+1)
	}
}
