package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A result is a line of the client about one request.
type result struct {
	Request int     `json:"request"`
	Sent    string  `json:"sent"`
	Outcome string  `json:"outcome"`
	PID     int     `json:"pid"`
	TookMS  float64 `json:"took_ms"`
}

// answered reports whether the request was answered.
func (r result) answered() bool { return r.Outcome == "ok" }

// kind is the outcome in the table's words.
func (r result) kind() string {
	switch {
	case r.Outcome == "empty" && r.Sent == "five":
		return "the crash"
	case r.answered():
		return "answered"
	case r.Outcome == "refused", r.Outcome == "reset":
		return r.Outcome
	default: // empty, timeout, wrong, or something unforeseen
		return "unanswered (" + r.Outcome + ")"
	}
}

// results are those of one row, in the order of the requests.
type results []result

// kinds counts the requests of each kind.
func (rs results) kinds() map[string]int {
	n := make(map[string]int)
	for _, r := range rs {
		n[r.kind()]++
	}
	return n
}

// count returns how many requests were answered, were refused, and got no answer.
func (rs results) count() (answered, refused, unanswered int) {
	n := rs.kinds()
	return n["answered"], n["refused"], len(rs) - n["answered"] - n["refused"]
}

// slowest returns the milliseconds of the slowest answered request.
func (rs results) slowest() float64 {
	ms := 0.0
	for _, r := range rs {
		if r.answered() {
			ms = max(ms, r.TookMS)
		}
	}
	return ms
}

// story lists the outcomes, in order: "5 answered, the crash, 14 refused". After several crashes it only counts.
func (rs results) story() string {
	var parts []string
	counts := rs.kinds()
	if n := counts["the crash"]; n > 1 {
		delete(counts, "the crash")
		for _, kind := range slices.Sorted(maps.Keys(counts)) {
			parts = append(parts, fmt.Sprintf("%d %s", counts[kind], kind))
		}
		return fmt.Sprintf("%d crashes, %s", n, strings.Join(parts, ", "))
	}
	for i := 0; i < len(rs); {
		n := 1
		for i+n < len(rs) && rs[i+n].kind() == rs[i].kind() {
			n++
		}
		if part := rs[i].kind(); part == "the crash" {
			parts = append(parts, part)
		} else {
			parts = append(parts, fmt.Sprintf("%d %s", n, part))
		}
		i += n
	}
	return strings.Join(parts, ", ")
}
