package restarttest

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

func TestUpgrade(t *testing.T) {
	fdtest.CheckLeaks(t)
	r, l := standing(t)
	cookies, holders := r.cookies(), r.holders()
	first, err := r.pid()
	if err != nil {
		t.Fatal(err)
	}
	keeper := parentOf(first)
	for n := range times(2) {
		r.replace(r.copyOf(r.program))
		if n%2 == 0 {
			out, err := exec.Command(filepath.Dir(r.program)+"/fdclient", "upgrade").CombinedOutput()
			if err != nil || !strings.HasPrefix(string(out), "upgraded to fdbroker ") {
				t.Errorf("fdclient upgrade: %v, %s", err, out)
			}
		} else if err := syscall.Kill(keeper, syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		for _, pid := range []int{first, keeper} {
			r.runsProgram(pid)
		}
		r.answers(0)
		r.keeps(cookies, holders)
		l.more(20)
	}
	if now, err := r.pid(); err != nil || now != first || parentOf(now) != keeper {
		t.Errorf("the broker is %d and its keeper %d; they were %d and %d", now, parentOf(now), first, keeper)
	}
	l.end()
}

// TestUpgradeFails: a program that does not accept the arguments of the broker does not get to run, and one that
// crashes is replaced by the old one.
func TestUpgradeFails(t *testing.T) {
	fdtest.CheckLeaks(t)
	r, l := standing(t)
	cookies, holders := r.cookies(), r.holders()
	pid, err := r.pid()
	if err != nil {
		t.Fatal(err)
	}
	old := r.program + ".old"
	r.copyOf(r.program)(old)
	r.replace(r.script("echo it is the wrong one; exit 3"))
	if err := r.client.Upgrade(context.Background()); err == nil || !strings.Contains(err.Error(), "--check failed (exit status 3); the running broker continues\nit is the wrong one") {
		t.Errorf("a program that fails the check: %v", err)
	}
	if now := r.answers(0); now != pid {
		t.Errorf("the broker is %d, was %d", now, pid)
	}
	r.keeps(cookies, holders)
	l.more(20)

	r.replace(r.script("[ \"$1\" = --check ]"))
	if err := r.client.Upgrade(context.Background()); err != nil {
		t.Errorf("a program that passes the check: %v", err)
	}
	r.answers(pid)
	r.keeps(cookies, holders)
	l.more(20)
	if said := r.said(); !strings.Contains(said, "before it was ready") {
		t.Errorf("the log does not say that the new program failed:\n%s", said)
	}
	l.end()
}

// TestUpgradeToNoBroker: a program that passes the check, and then is no broker, is replaced by the old one, and
// the client that asked for the upgrade is told.
func TestUpgradeToNoBroker(t *testing.T) {
	for name, text := range map[string]string{
		"crashes":    "[ \"$1\" = --check ] || kill -9 $$",
		"fails":      "[ \"$1\" = --check ]",
		"has no use": "exit 0",
		"cannot run": "[ \"$1\" = --check ] && rm \"$0\"",
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r, l := standing(t)
			cookies, holders := r.cookies(), r.holders()
			fdclient := filepath.Dir(r.program) + "/fdclient"
			r.replace(r.script(text))
			out, err := exec.Command(fdclient, "upgrade").CombinedOutput()
			if err == nil || !strings.HasPrefix(string(out), "fdclient: not upgraded: the new program ") {
				t.Errorf("fdclient upgrade: %v, %s", err, out)
			}
			why := ""
			err = r.client.Watch(context.Background(), func(e protocol.Event) error {
				if e.What == protocol.EventRestarted {
					why = e.Why
				}
				if e.What == protocol.EventWatching {
					return nil
				}
				return errSeen
			})
			if why != protocol.WhyUpgradeFailed {
				t.Errorf("the watcher is told %q, %v", why, err)
			}
			r.keeps(cookies, holders)
			l.more(20)
			l.end()
		})
	}
}

// errSeen ends a watch.
var errSeen = errors.New("seen")

// TestInPlace: a broker without any store can be upgraded all the same.
func TestInPlace(t *testing.T) {
	fdtest.CheckLeaks(t)
	r, l := standing(t, "--store=none")
	cookies, holders := r.cookies(), r.holders()
	pid, err := r.pid()
	if err != nil {
		t.Fatal(err)
	}
	for range times(2) {
		r.replace(r.copyOf(r.program))
		if err := r.client.Upgrade(context.Background()); err != nil {
			t.Fatal(err)
		}
		r.runsProgram(pid)
		if now := r.answers(0); now != pid {
			t.Errorf("the broker is %d, was %d", now, pid)
		}
		r.keeps(cookies, holders)
		l.more(20)
	}
	l.end()
}
