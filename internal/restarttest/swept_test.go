package restarttest

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestControlSwept: a broker whose control socket is removed makes another one, which its next ones go on with. Nobody
// loses anything, and a watcher stays.
func TestControlSwept(t *testing.T) {
	for _, store := range []string{"none", "keeper"} {
		t.Run(store, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r, l := standing(t, "--store="+store)
			cookies, holders := r.cookies(), r.holders()
			pid := r.answers(0)
			stays, err := net.Dial("unix", r.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer stays.Close()
			for range times(3) {
				if err := errors.Join(os.Remove(r.socket), os.Remove(r.socket+".lock")); err != nil {
					t.Fatal(err)
				}
				fdtest.Eventually(t, "the socket and its lock are there again", func() bool {
					_, err := os.Lstat(r.socket + ".lock")
					c, cerr := net.Dial("unix", r.socket)
					if cerr == nil {
						_ = c.Close()
					}
					return err == nil && cerr == nil
				})
				if now := r.answers(0); now != pid {
					t.Errorf("the broker is %d; it was %d", now, pid)
				}
				r.keeps(cookies, holders)
			}
			if _, err := stays.Write([]byte(`{"method":"org.varlink.service.GetInfo"}` + "\x00")); err != nil {
				t.Error(err)
			}
			if n, err := stays.Read(make([]byte, 4096)); err != nil || n == 0 {
				t.Errorf("a connection from before: %d bytes, %v", n, err)
			}
			if store == "keeper" {
				r.kill(pid)
				r.answers(pid)
			} else if err := r.client.Upgrade(context.Background()); err != nil {
				t.Error(err)
			}
			r.answers(0)
			r.keeps(cookies, holders)
			l.more(20)
			l.end()
		})
	}
}
