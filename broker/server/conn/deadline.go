package conn

import (
	"container/heap"
	"time"
)

// deadlines is the connections that something has to happen to in time, a heap with the earliest in front.
type deadlines []*Conn

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].deadline.Before(d[j].deadline) }
func (d *deadlines) Push(c any)        { *d = append(*d, c.(*Conn)) }

func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].place, d[j].place = i, j
}

func (d *deadlines) Pop() any {
	last := len(*d) - 1
	c := (*d)[last]
	(*d)[last], *d = nil, (*d)[:last]
	return c
}

func (c *Conn) setDeadline(kind deadlineKind, at time.Time) {
	c.clearDeadline()
	c.deadline, c.deadlineKind, c.place = at, kind, len(c.loop.deadlines)
	heap.Push(&c.loop.deadlines, c)
}

func (c *Conn) clearDeadline() {
	if c.deadlineKind != deadlineNone {
		c.deadlineKind = deadlineNone
		heap.Remove(&c.loop.deadlines, c.place)
	}
}
