package main

import (
	"cmp"
	"strings"
)

// natural compares names as people sort them: svc2 comes before svc10.
func natural(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		textX, numberX, restX := nextNumber(x)
		textY, numberY, restY := nextNumber(y)
		if c := cmp.Compare(textX, textY); c != 0 {
			return c
		}
		if c := compareNumbers(numberX, numberY); c != 0 {
			return c
		}
		x, y = restX, restY
	}
	return cmp.Or(cmp.Compare(x, y), cmp.Compare(a, b)) // 01 and 1 are two names
}

// nextNumber splits text before and behind its first number.
func nextNumber(text string) (before, number, rest string) {
	const digits = "0123456789"
	begin := strings.IndexAny(text, digits)
	if begin < 0 {
		return text, "", ""
	}
	rest = strings.TrimLeft(text[begin:], digits)
	return text[:begin], text[begin : len(text)-len(rest)], rest
}

// compareNumbers compares numbers of any length. No number is the least.
func compareNumbers(a, b string) int {
	if a == "" || b == "" {
		return cmp.Compare(a, b)
	}
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}
