package supervisor

import (
	"bytes"
	"os"
)

// saidReady reads from the socket that the worker with that pid says READY=1 on (sd_notify(3)), and reports whether it
// has said that.
func saidReady(r *mailbox, pid int) (said bool) {
	r.each(func(d datagram) {
		said = said || saysReady(d.text) && (int(d.peer.Pid) == pid || mayControl(d.peer.Uid))
	})
	return said
}

func saysReady(text []byte) bool {
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		if string(line) == "READY=1" {
			return true
		}
	}
	return false
}

// mayControl reports whether a user could stop the workers as well.
func mayControl(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }
