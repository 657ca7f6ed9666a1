package conn

import (
	"container/heap"
	"time"
)

// deadlines holds values that something has to happen to in time, the earliest first.
type deadlines[T any] struct{ entries entries[T] }

// deadline is one entry. The zero value is in no list.
type deadline[T any] struct {
	at    time.Time
	value T
	index int // in the heap, plus one; 0: in none
}

// set makes at the time of d.
func (l *deadlines[T]) set(d *deadline[T], at time.Time) {
	d.at = at
	if d.index == 0 {
		heap.Push(&l.entries, d)
		return
	}
	heap.Fix(&l.entries, d.index-1)
}

// clear takes d out, if it is in.
func (l *deadlines[T]) clear(d *deadline[T]) {
	if d.index > 0 {
		heap.Remove(&l.entries, d.index-1)
	}
}

// next returns the earliest time.
func (l *deadlines[T]) next() (at time.Time, ok bool) {
	if len(l.entries) == 0 {
		return at, false
	}
	return l.entries[0].at, true
}

// due takes out an entry whose time has come.
func (l *deadlines[T]) due(now time.Time) (value T, ok bool) {
	if len(l.entries) == 0 || now.Before(l.entries[0].at) {
		return value, false
	}
	return heap.Pop(&l.entries).(*deadline[T]).value, true
}

// entries implements [heap.Interface].
type entries[T any] []*deadline[T]

func (e entries[T]) Len() int           { return len(e) }
func (e entries[T]) Less(i, j int) bool { return e[i].at.Before(e[j].at) }

func (e entries[T]) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].index, e[j].index = i+1, j+1
}

func (e *entries[T]) Push(x any) {
	d := x.(*deadline[T])
	*e = append(*e, d)
	d.index = len(*e)
}

func (e *entries[T]) Pop() any {
	old := *e
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*e = old[:len(old)-1]
	d.index = 0
	return d
}
