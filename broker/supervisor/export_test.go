package supervisor

import "time"

// Unnudged returns c without signals to a thread that a stranger's descriptors block.
func Unnudged(c Config) Config {
	c.nudge = time.Hour
	return c
}
