// Package supervisor keeps a number of workers alive: processes that all run the same command. It starts another worker
// for each that ends, replaces workers new-first, and stops them.
//
// It may start, signal and reap its own workers, and nothing else. It never talks to a broker, and does not know how a
// worker gets its sockets: a [Deploy] does. One goroutine owns all of its state and must never block.
package supervisor
