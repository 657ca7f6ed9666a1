// Package systemdtest runs the units of examples/systemd in a real systemd, the recipe of docs/containers.md in real
// namespaces, and varlinkctl as a client like any other. It compares the definition of the interface as varlinkctl reads
// it with a strict reader of its own, which also holds the definition to the Go types and to real replies. It has tests
// only.
//
// The systemd is that of a Debian tree, the first process of its namespaces. FDBROKER_SYSTEMD_BOX names the program
// that makes and starts such trees; without it the tests that need one are skipped.
package systemdtest
