package recoverytest

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

const httpRequest = "GET / HTTP/1.0\r\n\r\n"

// A server that has never heard of a broker is moved onto one while it serves, and
// then replaced, and nobody who connects notices.
func TestAdopt(t *testing.T) {
	for name, cred := range map[string]*syscall.Credential{"same user": nil, "not root": {Uid: 1234, Gid: 1234}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, cred)
			r.mayTrace()
			address := freePort(t)
			_, port, _ := net.SplitHostPort(address)
			old := r.start(python, r.path("webserver.py"), port)
			fdtest.Eventually(t, "the server answers", func() bool {
				_, err := ask("tcp", address, httpRequest)
				return err == nil
			})
			r.broker()
			l := startLoad(t, "tcp", address, httpRequest)
			l.waitFor(old.pid(), 10)
			if out := r.run("fdclient", "adopt", "web,backlog=64", "--pid", fmt.Sprint(old.pid())); out != "web tcp "+address+"\n" {
				t.Errorf("got %q", out)
			}
			if h := r.holder(old.pid()); h == nil || h.State != "active" {
				t.Errorf("got %+v", h)
			}
			if is := r.listener("web"); is.Flipped || *is.Limit != 64 {
				t.Errorf("got %+v", is)
			}
			l.waitFor(old.pid(), 10)
			young := r.start("fdclient", "get", "web", "--", python, r.path("webserver.py"))
			l.waitFor(young.pid(), 10)
			r.run("fdclient", "drain", "web", "--before", fmt.Sprint(r.holder(young.pid()).Grant))
			if err := old.wait(); err != nil {
				t.Errorf("the old server: %v\n%s", err, old.out.String())
			}
			l.waitFor(young.pid(), 10)
			l.done()
			fdtest.Eventually(t, "there is one holder", func() bool { return r.listener("web").Holders == 1 })
		})
	}
}

// What cannot be adopted is said in a line, with what there is.
func TestAdoptRefused(t *testing.T) {
	r := newRig(t, nil)
	r.mayTrace()
	r.broker("--socket-mode=0666")
	one, two := freePort(t), freePort(t)
	var pids [2]string
	for i, script := range []string{
		"import socket,sys,time\nL=[socket.create_server(('127.0.0.1',int(p))) for p in sys.argv[1:]]\nprint('up',flush=True)\ntime.sleep(60)",
		"import time\nprint('up',flush=True)\ntime.sleep(60)",
	} {
		args := []string{"-c", script}
		for _, a := range []string{one, two} {
			_, port, _ := net.SplitHostPort(a)
			args = append(args, port)
		}
		p := r.start(python, args...)
		fdtest.Eventually(t, "it listens", func() bool { return strings.Contains(p.out.String(), "up") })
		pids[i] = fmt.Sprint(p.pid())
	}
	fails := func(want string, args ...string) {
		t.Helper()
		out, err := r.command("fdclient", append([]string{"adopt"}, args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("adopt %q: %v, %s, want %s", args, err, out, want)
		}
	}
	fails("listens at tcp://"+one+", tcp://"+two, "web", "--pid", pids[0])
	fails("does not listen at :1; it does at tcp://"+one, "web", "--pid", pids[0], "--address", ":1")
	fails("does not listen at udp://"+one, "web", "--pid", pids[0], "--address", "udp://"+one)
	fails("does not listen at localhost:1", "web", "--pid", pids[0], "--address", "localhost:1")
	fails("PORT, :PORT, HOST:PORT", "web", "--pid", pids[0], "--address", "localhost")
	fails("there is no such signal", "web", "--pid", pids[0], "--drain-signal", "BANG")
	fails("has no listening socket", "web", "--pid", pids[1])
	fails("fdclient: there is no process 999999999\n", "web", "--pid", "999999999")
	fails("name the process with --pid PID", "web")
	fails("there is no option", "web,frob", "--pid", pids[0], "--address", one)
	_, port, _ := net.SplitHostPort(two)
	if out := r.run("fdclient", "adopt", "two", "--pid", pids[0], "--address", port); out != "two tcp "+two+"\n" {
		t.Errorf("got %q", out)
	}
	fails(`"two" is bound already`, "two", "--pid", pids[0], "--address", one)
	if r.cred = (&syscall.Credential{Uid: 1234, Gid: 1234}); syscall.Geteuid() == 0 {
		fails("permission denied (uid 1234 may not take a descriptor from it)", "web", "--pid", pids[0])
	}
}
