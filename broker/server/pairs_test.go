package server_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

var (
	pairs    = flag.Int("pairs", 0, "try `N` pairs of configurations; 0: as many as take two seconds")
	pairSeed = flag.Uint64("pairseed", 0, "begin with this seed; 0: another one each time")
)

// TestReloadIsLikeStart: a reload from one configuration to another succeeds exactly if a start with the other one does,
// and leaves the same state of the kernel. The configurations are random.
func TestReloadIsLikeStart(t *testing.T) {
	fdtest.CheckLeaks(t)
	seed := *pairSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	w := &pairWorld{dir: fdtest.SocketDir(t), ports: freePorts(t, 2)}
	refused, n, begun := 0, 0, time.Now()
	for ; n < *pairs || *pairs == 0 && time.Since(begun) < fdtest.Long(2*time.Second) && n < 2000; n++ {
		w.random = rand.New(rand.NewPCG(seed+uint64(n), 0))
		old, next := w.configuration(), w.configuration()
		if !w.try(t, old, next) {
			refused++
		}
		if t.Failed() {
			t.Fatalf("-pairseed %d: from %q to %q", seed+uint64(n), old, next)
		}
	}
	t.Logf("%d pairs from -pairseed %d, refused: %d", n, seed, refused)
}

// A pairWorld is what configurations are made of.
type pairWorld struct {
	dir    string
	ports  []string
	random *rand.Rand
}

func freePorts(t *testing.T, n int) (ports []string) {
	for range n {
		ln, err := net.Listen("tcp", "[::]:0")
		if err != nil {
			t.Skip(err)
		}
		defer ln.Close()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

// configuration returns specs of which some cannot be bound beside the others.
func (w *pairWorld) configuration() (specs []string) {
	one := func(of ...string) string { return of[w.random.IntN(len(of))] }
	for _, name := range []string{"a", "b", "c"} {
		if w.random.IntN(4) == 0 {
			continue
		}
		if w.random.IntN(4) == 0 {
			s := one("unix", "unix", "unixgram", "unixpacket") + "://" + w.dir + "/" + one("s", "t")
			specs = append(specs, name+"="+s+one("", "", ",mode=0600", ",mode=0660", ",blocking"))
			continue
		}
		network := one("tcp", "tcp", "tcp", "udp")
		host := one("0.0.0.0", "127.0.0.1", "127.0.0.2", "[::1]", "localhost", "192.0.2.1")
		if os.Geteuid() == 0 { // else the kernel remembers that such a port was shared: docs/kernel.md, SO_REUSEPORT
			host = one("", "[::]", host, host, host)
		}
		s := name + "=" + network + "://" + host + ":" + one(w.ports...)
		s += one("", "", "", ",freebind", ",mark=3")
		if host == "" || host[0] == '[' {
			s += one("", ",v6only")
		}
		if network == "tcp" {
			s += one("", "", ",backlog=7", ",nodelay", ",keepalive", ",defer-accept=3s")
		}
		if os.Geteuid() == 0 {
			s += one("", "", "", ",device=lo", ",transparent")
		}
		specs = append(specs, s)
	}
	return specs
}

// try compares a reload with a start, and reports whether they succeed.
func (w *pairWorld) try(t *testing.T, old, next []string) bool {
	first := w.broker(t)
	_, err := first.Reload(w.parse(t, old), server.ReloadOptions{})
	if err != nil { // a broker that has nothing is a start, too
		old = nil
	}
	_, rerr := first.Reload(w.parse(t, next), server.ReloadOptions{Force: true})
	reloaded := w.state(t, first)
	_ = first.Close()
	second := w.broker(t)
	_, serr := second.Reload(w.parse(t, next), server.ReloadOptions{})
	started := w.state(t, second)
	_ = second.Close()
	switch {
	case (rerr == nil) != (serr == nil):
		t.Errorf("a reload: %v; a start: %v", rerr, serr)
	case rerr == nil && reloaded != started:
		t.Errorf("after a reload:\n%s\nafter a start:\n%s", reloaded, started)
	}
	return rerr == nil
}

func (w *pairWorld) broker(t *testing.T) *server.Server {
	s, err := server.New(server.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *pairWorld) parse(t *testing.T, texts []string) (specs []spec.Spec) {
	for _, text := range texts {
		specs = append(specs, parse(t, text))
	}
	return specs
}

// state describes all sockets of a broker, and who could join their ports.
func (w *pairWorld) state(t *testing.T, s *server.Server) string {
	byCookie := make(map[uint64]int)
	for _, fd := range fdtest.OpenFDs(t) {
		var n int
		if _, err := fmt.Sscan(fd, &n); err != nil {
			continue
		}
		if c, err := unix.GetsockoptUint64(n, unix.SOL_SOCKET, unix.SO_COOKIE); err == nil {
			byCookie[c] = n
		}
	}
	var text strings.Builder
	for _, l := range s.Listeners() {
		fmt.Fprintln(&text, l.Name, l.Network, l.Address, l.Spec, l.Blocking, l.Bytes || l.Limit == nil, *l.Limit)
		fd, found := byCookie[l.Cookie]
		if !found {
			t.Fatalf("%s has no descriptor", l.Name)
		}
		for _, o := range [][2]int{
			{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.SOL_SOCKET, unix.SO_REUSEPORT}, {unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX},
			{unix.SOL_SOCKET, unix.SO_MARK}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.SOL_TCP, unix.TCP_NODELAY},
			{unix.SOL_TCP, unix.TCP_DEFER_ACCEPT}, {unix.SOL_IP, unix.IP_FREEBIND}, {unix.SOL_IP, unix.IP_TRANSPARENT},
			{unix.SOL_IPV6, unix.IPV6_FREEBIND}, {unix.SOL_IPV6, unix.IPV6_TRANSPARENT}, {unix.SOL_IPV6, unix.IPV6_V6ONLY},
		} {
			n, err := unix.GetsockoptInt(fd, o[0], o[1])
			if o[1] == unix.IPV6_V6ONLY && !strings.HasPrefix(l.Address, "[::]:") {
				n = 0 // it means nothing
			}
			fmt.Fprint(&text, " ", n, err)
		}
		var st unix.Stat_t
		if l.Address[0] == '/' && unix.Stat(l.Address, &st) == nil {
			fmt.Fprint(&text, " ", st.Mode, st.Uid, st.Gid)
		}
		fmt.Fprintln(&text)
	}
	for _, port := range w.ports {
		for _, host := range []string{"127.0.0.1", "0.0.0.0", "[::]", "[::1]", "127.0.0.3"} {
			for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
				fmt.Fprint(&text, " ", host, port, typ, joins(t, host+":"+port, typ))
			}
		}
	}
	if files, err := os.ReadDir(w.dir); err == nil {
		for _, f := range files {
			fmt.Fprint(&text, " ", f.Name())
		}
	}
	return text.String()
}

// joins reports whether a socket with SO_REUSEPORT can be bound to an address.
func joins(t *testing.T, address string, typ int) bool {
	ends, err := parse(t, "x="+address).Endpoints()
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.Socket(ends[0].Family(), typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(n)
	sa, err := ends[0].Sockaddr()
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	return unix.Bind(n, sa) == nil
}
