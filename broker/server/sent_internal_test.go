//go:build linux

package server

import (
	"strings"
	"testing"
)

// TestSentOfMany: however many users drain a listener, the state has room for it, and
// forgets of them who came first.
func TestSentOfMany(t *testing.T) {
	st, err := newState()
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	var s sent
	server := &Server{uid: 0}
	const users = 5000
	for uid := uint32(1); uid <= users; uid++ {
		s.away(&client{server: server, peer: peer{uid: uid}}, int64(uid))
	}
	v := savedListener{sent: s, spec: strings.Repeat("x", 4096)}
	st.scratch = v.append(nil)
	if st.replace(0, kindListener) == 0 {
		t.Errorf("no room for a listener that %d users have drained: %d bytes", len(s.of), len(st.scratch))
	}
	if !s.covers(users, users-1) {
		t.Error("what the last user sent away is not known any more")
	}
	if s.away(&client{server: server}, users); len(s.of) > 0 {
		t.Errorf("%d users are known whose grants root has sent away too", len(s.of))
	}
}
