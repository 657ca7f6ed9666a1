package recoverytest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"golang.org/x/sys/unix"
)

// freePort returns an address whose port is free now. It is none that the kernel gives to
// whoever binds port 0, or to a connection (net.ipv4.ip_local_port_range): one of those
// might be taken before the test binds it.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if ln, err := net.Listen("tcp", address); err == nil {
			_ = ln.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// A broker that starts with nothing takes its sockets back from a worker that knows
// nothing of brokers: the same ones, and nobody who connects notices anything.
func TestTakenBack(t *testing.T) {
	t.Run("same user", func(t *testing.T) { takenBack(t, newRig(t, nil)) })
	t.Run("not root", func(t *testing.T) { takenBack(t, newRig(t, &syscall.Credential{Uid: 1234, Gid: 1234})) })
}

func takenBack(t *testing.T, r *rig) {
	r.mayTrace()
	for name, c := range map[string]struct{ spec, network, address string }{
		"tcp":      {"web=" + freePort(t), "tcp", ""},
		"unix":     {"web=unix://" + r.path("web") + ",mode=0600", "unix", r.path("web")},
		"abstract": {"web=unix://@" + r.path("web"), "unix", "@" + r.path("web")},
	} {
		t.Run(name, func(t *testing.T) {
			r.t = t
			b := r.broker("--bind", c.spec)
			was := r.listener("web")
			first := r.worker("web")
			l := startLoad(t, was.Network, was.Address, "")
			l.waitFor(first.pid(), 10)
			for range 5 {
				b.kill()
				l.waitFor(first.pid(), 10)
				b = r.broker("--bind", c.spec)
				if is := r.listener("web"); is.Cookie != was.Cookie || is.Spec != was.Spec || !is.Blocking || is.Flipped || is.Holders != 1 {
					t.Errorf("got %+v, want %+v", is, was)
				}
				if h := r.holder(first.pid()); h == nil || h.Connection {
					t.Errorf("its holder is %+v", h)
				}
				if text := b.out.String(); !strings.Contains(text, "recovered the socket") || !strings.Contains(text, fmt.Sprintf(`"pid":%d`, first.pid())) {
					t.Errorf("the log does not say so:\n%s", text)
				}
			}
			// What it got back is as good as what it had: another worker takes over.
			second := r.worker("web")
			l.waitFor(second.pid(), 10)
			l.done() // else the first may have accepted one when it is killed
			first.kill()
			fdtest.Eventually(t, "the first worker's grant ends", func() bool { return r.holder(first.pid()) == nil })
			if _, err := ask(was.Network, was.Address, ""); err != nil {
				t.Error(err)
			}
			second.kill()
			if err := b.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := b.wait(); err != nil {
				t.Errorf("the broker: %v", err)
			}
			if _, err := net.Dial(was.Network, was.Address); err == nil {
				t.Error("somebody still listens")
			}
		})
	}
}

// TestNotTakenBack: what is not clearly the broker's own is left alone, and the start
// fails as it always did.
func TestNotTakenBack(t *testing.T) {
	r := newRig(t, nil)
	listen := func(t *testing.T, address string, options ...int) {
		t.Helper()
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				for _, o := range options {
					if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o, 1); err != nil {
						t.Error(err)
					}
				}
			})
		}}
		ln, err := lc.Listen(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
	}
	t.Run("a stranger's", func(t *testing.T) {
		r.t = t
		r.mayTrace()
		address := freePort(t)
		listen(t, address)
		if said := r.fails("--bind", "web="+address); !strings.Contains(said, "address already in use by pid") || strings.Contains(said, "recovered the socket") {
			t.Error(said)
		}
	})
	t.Run("another broker's", func(t *testing.T) {
		r.t = t
		for _, store := range []string{"none", "keeper"} {
			address := freePort(t)
			b := r.start("fdbroker", "--store="+store, "--bind", "web="+address)
			fdtest.Eventually(t, "the broker is ready", func() bool { return strings.Contains(b.out.String(), `"ready"`) })
			said := r.fails("--bind", "web="+address, "--socket", r.path("second"))
			if !strings.Contains(said, "is a broker that runs") || strings.Contains(said, `"recovered the socket`) {
				t.Error(said)
			}
			_ = b.Process.Signal(syscall.SIGTERM)
			_ = b.wait()
		}
	})
	t.Run("several", func(t *testing.T) {
		r.t = t
		address := freePort(t)
		listen(t, address, unix.SO_REUSEPORT)
		listen(t, address, unix.SO_REUSEPORT)
		if said := r.fails("--bind", "web="+address); !strings.Contains(said, "2 sockets share the address") {
			t.Error(said)
		}
	})
	t.Run("--no-recover", func(t *testing.T) {
		r.t = t
		r.mayTrace()
		address := freePort(t)
		b := r.broker("--bind", "web="+address)
		w := r.worker("web")
		fdtest.Eventually(t, "it has become its command", func() bool { return strings.HasPrefix(procfs.Name(w.pid()), "python3") })
		b.kill()
		want := fmt.Sprintf("address already in use by pid %d (python3", w.pid())
		if said := r.fails("--bind", "web="+address, "--no-recover"); !strings.Contains(said, want) || strings.Contains(said, "recovered the socket") {
			t.Error(said)
		}
		// Another address, though the same port.
		_, port, _ := net.SplitHostPort(address)
		if said := r.fails("--bind", "web=:"+port); !strings.Contains(said, "not at the address of the spec") {
			t.Error(said)
		}
		// One bad spec, and nothing is taken.
		if said := r.fails("--bind", "web="+address, "--bind", "x=192.0.2.1:1"); strings.Contains(said, "web") || !strings.Contains(said, "x=192.0.2.1:1") {
			t.Error(said)
		}
		if _, err := ask("tcp", address, ""); err != nil {
			t.Error(err)
		}
	})
}

// Sockets of every network come back, all from one process.
func TestAllNetworksTakenBack(t *testing.T) {
	r := newRig(t, nil)
	r.mayTrace()
	var args, names []string
	for name, address := range map[string]string{
		"udp": "udp://" + freePort(t), "all": ":" + portOf(t), "v6": "tcp6://:" + portOf(t), "name": "localhost:" + portOf(t),
		"packet": "unixpacket://" + r.path("packet"), "gram": "unixgram://" + r.path("gram"), "abstract": "unixgram://@" + r.path("a"),
	} {
		args = append(args, "--bind", name+"="+address)
		names = append(names, name)
	}
	b := r.broker(args...)
	was := r.list().Listeners
	w := r.start("fdclient", append(append([]string{"get"}, names...), "--", "sleep", "60")...)
	fdtest.Eventually(t, "it holds them", func() bool { return r.holder(w.pid()) != nil })
	b.kill()
	b = r.broker(args...)
	for i, is := range r.list().Listeners {
		if is.Name != was[i].Name || is.Cookie != was[i].Cookie || is.Address != was[i].Address || is.Holders != 1 {
			t.Errorf("got %+v, want %+v", is, was[i])
		}
	}
	if h := r.list().Holders; len(h) != 1 || len(h[0].Names) != len(names) {
		t.Errorf("got %+v", h)
	}
	if err := b.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := b.wait(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(r.path("[pg]*[tm]")); len(left) > 0 {
		t.Errorf("paths are left: %q", left)
	}
}

func portOf(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	return port
}
