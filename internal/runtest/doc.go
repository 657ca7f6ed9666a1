// Package runtest has tests, and nothing else: 'fdclient run' keeps real workers alive,
// which crash, are replaced and are killed, and a steady load counts what fails.
package runtest
