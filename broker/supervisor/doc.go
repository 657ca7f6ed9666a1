// Package supervisor keeps a number of workers alive: processes that all run the
// same command. It starts again what ends, replaces workers new-first, and stops
// them. It neither knows how a worker gets its socket nor talks to a broker itself.
package supervisor
