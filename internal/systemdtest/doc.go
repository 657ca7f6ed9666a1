// Package systemdtest runs the units of examples/systemd in a real systemd, and the
// recipe of docs/containers.md in real namespaces. It has tests only.
//
// The systemd is that of a Debian tree, the first process of its namespaces. FDBROKER_SYSTEMD_BOX names the program
// that makes and starts such trees; without it that test is skipped.
package systemdtest
