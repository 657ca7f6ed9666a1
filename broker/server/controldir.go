//go:build linux

package server

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Exposed says, in words for the log, why somebody else can put a socket of his own in
// the place of the control socket, so that the broker's clients come to him; it is empty
// where nobody can, as far as the socket's directory shows.
func (c *Control) Exposed() string { return exposure(filepath.Dir(c.path)) }

func exposure(dir string) string {
	const help = "use a directory that root or the broker's user owns, and nobody else may write to"
	var st unix.Stat_t
	switch err := unix.Stat(dir, &st); {
	case err != nil:
		return "" // the socket is gone with it
	case st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
		return fmt.Sprintf("%s belongs to uid %d, who can replace what is in it: %s", dir, st.Uid, help)
	case st.Mode&unix.S_IWOTH != 0 && st.Mode&unix.S_ISVTX == 0:
		return fmt.Sprintf("everybody may write to %s, and can replace what is in it: %s", dir, help)
	}
	return ""
}
