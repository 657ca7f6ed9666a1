package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A result is how one request ended.
type result struct {
	Request int
	Sent    string
	Outcome string // ok, refused, reset, empty, timeout, wrong, or another error's text
	PID     int    // of the worker that has answered
	TookMS  float64
}

func (r result) String() string {
	by := ""
	if r.answered() {
		by = fmt.Sprintf("by %d", r.PID)
	}
	return fmt.Sprintf("  %2d  %-4s  %-8s %7.1f ms  %s", r.Request, r.Sent, r.Outcome, r.TookMS, by)
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

// count returns how many requests were answered, were refused, and got no answer.
func (rs results) count() (answered, refused, unanswered int) {
	for _, r := range rs {
		switch {
		case r.answered():
			answered++
		case r.Outcome == "refused":
			refused++
		default:
			unanswered++
		}
	}
	return answered, refused, unanswered
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

// story says what happened, in order: "5 answered, the crash, 14 refused". After several
// crashes it only counts.
func (rs results) story() string {
	var parts []string
	counts := map[string]int{}
	for _, r := range rs {
		counts[r.kind()]++
	}
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
