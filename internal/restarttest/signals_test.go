package restarttest

import (
	"context"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestHangupsMeanwhile: a SIGHUP does not end a program that is just taking over, nor a
// keeper.
func TestHangupsMeanwhile(t *testing.T) {
	for _, store := range []string{"none", "keeper"} {
		t.Run(store, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r, l := standing(t, "--store="+store)
			cookies, holders := r.cookies(), r.holders()
			pid, err := r.pid()
			if err != nil {
				t.Fatal(err)
			}
			keeper := parentOf(pid)
			done := make(chan struct{})
			var hangups sync.WaitGroup
			hangups.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					_ = syscall.Kill(pid, syscall.SIGHUP)
					if store == "keeper" {
						_ = syscall.Kill(keeper, syscall.SIGHUP)
					}
				}
			})
			for range times(4) {
				r.replace(r.copyOf(r.program))
				if err := r.client.Upgrade(context.Background()); err != nil {
					t.Error(err)
				}
				r.answers(0)
			}
			close(done)
			hangups.Wait()
			if now := r.answers(0); now != pid || parentOf(now) != keeper {
				t.Errorf("the broker is %d and its parent %d; they were %d and %d", now, parentOf(now), pid, keeper)
			}
			r.keeps(cookies, holders)
			l.more(20)
			l.end()
		})
	}
}

// TestStopMeanwhile: a broker that is told to stop while calls under way hold up an
// upgrade stops.
func TestStopMeanwhile(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := start(t, "--store=none")
	pid, err := r.pid()
	if err != nil {
		t.Fatal(err)
	}
	lazy, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer lazy.Close()
	for err == nil { // until neither side has room for more
		_ = lazy.SetDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = lazy.Write([]byte(`{"method":"io.fdbroker.List"}` + "\x00"))
	}
	if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	fdtest.Eventually(t, "no call is answered any more", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err := r.client.Info(ctx)
		return err != nil
	})
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	fdtest.Eventually(t, "the broker has gone", func() bool {
		_, err := os.Stat(r.socket + ".lock")
		return os.IsNotExist(err)
	})
}
