package socket_test

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// kernelOptions returns what the kernel says about the options that a socket takes at any time.
func kernelOptions(t *testing.T, fd int) map[string]string {
	t.Helper()
	domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	kind, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	is := make(map[string]string)
	number := func(name string, level, option int) {
		n, err := unix.GetsockoptInt(fd, level, option)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		is[name] = fmt.Sprint(n)
	}
	number("rcvbuf", unix.SOL_SOCKET, unix.SO_RCVBUF)
	number("sndbuf", unix.SOL_SOCKET, unix.SO_SNDBUF)
	number("IPv4 tos", unix.SOL_IP, unix.IP_TOS)
	if domain == unix.AF_INET6 {
		number("IPv6 tos", unix.SOL_IPV6, unix.IPV6_TCLASS)
	}
	if kind == unix.SOCK_DGRAM {
		return is
	}
	number("nodelay", unix.SOL_TCP, unix.TCP_NODELAY)
	number("keepalive", unix.SOL_SOCKET, unix.SO_KEEPALIVE)
	number("idle", unix.SOL_TCP, unix.TCP_KEEPIDLE)
	number("interval", unix.SOL_TCP, unix.TCP_KEEPINTVL)
	number("count", unix.SOL_TCP, unix.TCP_KEEPCNT)
	number("user-timeout", unix.SOL_TCP, unix.TCP_USER_TIMEOUT)
	name, err := unix.GetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION)
	if err != nil {
		t.Errorf("congestion: %v", err)
	}
	is["congestion"] = name
	return is
}

func optionsOf(t *testing.T, sock *socket.Socket) (is map[string]string) {
	t.Helper()
	control(t, sock, func(fd int) { is = kernelOptions(t, fd) })
	return is
}

// accepted returns the options of a connection to sock from address. Package net would set some of them by itself.
func accepted(t *testing.T, sock *socket.Socket, address string) (is map[string]string) {
	t.Helper()
	dial(t, "tcp", address)
	fdtest.Eventually(t, "there is a connection", func() bool {
		accepted := -1
		control(t, sock, func(fd int) { accepted, _, _ = unix.Accept4(fd, unix.SOCK_CLOEXEC) })
		if accepted < 0 {
			return false
		}
		defer unix.Close(accepted)
		is = kernelOptions(t, accepted)
		return true
	})
	return is
}

func checkOptions(t *testing.T, when string, is, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if w, ok := want[name]; ok && is[name] != w {
			t.Errorf("%s: %s is %s, want %s", when, name, is[name], w)
		}
	}
}

// otherCongestion returns a congestion control that is not the default; without one, the default.
func otherCongestion(t *testing.T) (name string) {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err != nil {
		t.Skip(err)
	}
	is, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	for name = range strings.FieldsSeq(string(text)) {
		if name != strings.TrimSpace(string(is)) {
			break
		}
	}
	return name
}

// TestOptionsOfConnections: options come and go on a living socket, a connection has them, and a worker's shutdown takes
// none away. What is taken away is as on a new socket.
func TestOptionsOfConnections(t *testing.T) {
	congestion := otherCongestion(t)
	const common = ",rcvbuf=32K,sndbuf=16K,tos=low-delay"
	for _, test := range []struct{ plain, options string }{
		{"a=127.0.0.1:0", common},
		{"a=:0", common},
		{"a=tcp6://[::1]:0", common},
		{"a=udp://127.0.0.1:0", common},
		{"a=udp://:0", common},
	} {
		want := map[string]string{"rcvbuf": "65536", "sndbuf": "32768", "IPv4 tos": "16", "IPv6 tos": "16"}
		packets := strings.Contains(test.plain, "udp")
		if !packets {
			test.options += ",nodelay,keepalive=61s/11s/6,user-timeout=7s,congestion=" + congestion
			maps.Copy(want, map[string]string{"nodelay": "1", "keepalive": "1", "idle": "61", "interval": "11", "count": "6",
				"user-timeout": "7000", "congestion": congestion})
		}
		t.Run(test.plain, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			checkOptions(t, "opened", optionsOf(t, open(t, test.plain+test.options)), want)
			fd, _ := passed(t, test.plain)
			foreign, err := socket.Adopt(parse(t, test.plain+test.options), fd, socket.Foreign)
			if err != nil {
				t.Fatal(err)
			}
			checkOptions(t, "adopted", optionsOf(t, foreign), want)
			if err := foreign.Close(); err != nil {
				t.Error(err)
			}

			sock := open(t, test.plain)
			fresh := optionsOf(t, sock)
			become := func(text string) {
				if !sock.CanBecome(parse(t, text)) {
					t.Fatalf("cannot become %s", text)
				}
				if err := sock.Become(parse(t, text)); err != nil {
					t.Fatal(err)
				}
			}
			become(test.plain + test.options)
			checkOptions(t, "changed", optionsOf(t, sock), want)
			if !packets {
				checkOptions(t, "a connection", accepted(t, sock, sock.Address()), want)
				do(t, sock, shutdown(unix.SHUT_RDWR))
				repaired(t, sock, "shut down")
				checkOptions(t, "repaired", optionsOf(t, sock), want)
				checkOptions(t, "a connection then", accepted(t, sock, sock.Address()), want)
			}
			if strings.HasPrefix(sock.Address(), "[::]") && !packets {
				checkOptions(t, "an IPv4 connection", accepted(t, sock, "127.0.0.1"+portOf(sock.Address())), want)
			}
			become(test.plain)
			checkOptions(t, "cleared", optionsOf(t, sock), fresh)
			if !packets {
				control(t, sock, func(fd int) {
					locks, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK)
					if err != unix.ENOPROTOOPT && locks != 0 { // Linux 5.14
						t.Errorf("cleared: the buffers do not grow by themselves: SO_BUF_LOCK is %d, %v", locks, err)
					}
				})
			}
		})
	}
}

// TestBecomeFails: if the kernel refuses one option, the others are as they were.
func TestBecomeFails(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "a=127.0.0.1:0,keepalive=61s/11s/6,tos=8")
	was := optionsOf(t, sock)
	err := sock.Become(parse(t, "a=127.0.0.1:0,nodelay,keepalive=62s/12s/7,congestion=no-such-one,tos=16"))
	const want = `option congestion: "no-such-one" is not one of `
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), "option congestion") != 1 {
		t.Errorf("got %v, want it to have %q", err, want)
	}
	checkOptions(t, "after a failure", optionsOf(t, sock), was)
	if be := refused(t, "b=127.0.0.1:0,congestion=no-such-one"); !strings.Contains(be.Error(), want) {
		t.Errorf("got %v", be)
	}
}

// TestShortfalls: what the kernel gives less of is said.
func TestShortfalls(t *testing.T) {
	for text, want := range map[string]string{
		"a=:1,backlog=1000000000":       "backlog=1000000000 is more than net.core.somaxconn: the kernel gives ",
		"a=tcp6://:1,tos=low-cost":      "tos=2: TCP keeps the two lowest bits for itself (ECN)",
		"a=udp://:1,tos=low-cost":       "",
		"a=:1,backlog=2,rcvbuf=4K":      "",
		"a=unix://@a,backlog=1":         "",
		"a=udp6://:1,sndbuf=1,rcvbuf=1": "",
	} {
		got := strings.Join(socket.Shortfalls(parse(t, text)), "; ")
		if !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// TestMkDir: the option mkdir makes what is missing above a path, with its mode whatever the umask is, and leaves alone
// what is there.
func TestMkDir(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	if be := refused(t, "a=unix://"+dir+"/x/y/s"); !strings.Contains(be.Error(), "there is no directory "+dir+"/x/y (the option mkdir makes it)") {
		t.Errorf("without: %v", be)
	}
	for name, test := range map[string]struct {
		option string
		want   os.FileMode
	}{"a": {"mkdir", 0o755}, "b": {"mkdir=0750", 0o750}, "d": {"mkdir=yes", 0o755}} {
		path := dir + "/" + name + "/deep/s"
		open(t, "a=unix://"+path+","+test.option)
		for _, d := range []string{filepath.Dir(path), dir + "/" + name} {
			if st, err := os.Lstat(d); err != nil || st.Mode() != test.want|os.ModeDir {
				t.Errorf("%s of %s: %v, %v", d, test.option, st.Mode(), err)
			}
		}
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o711 {
		t.Errorf("the directory above has changed: %v, %v", st.Mode(), err)
	}
	open(t, "a=unix://"+dir+"/a/deep/t,mkdir=0700")
	if st, err := os.Stat(dir + "/a/deep"); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("a directory that was there has changed: %v, %v", st.Mode(), err)
	}
}

// TestMkDirRefuses: nothing is made through a symbolic link that leads nowhere, or below a file.
func TestMkDirRefuses(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	for _, err := range []error{os.Symlink("elsewhere", dir+"/l"), os.WriteFile(dir+"/f", nil, 0o600),
		os.Mkdir(dir+"/real", 0o700), os.Symlink("real", dir+"/to")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"/l/s":   "the directory " + dir + "/l cannot be created: it is a symbolic link to nothing",
		"/l/x/s": "the directory " + dir + "/l cannot be created: it is a symbolic link to nothing",
		"/f/x/s": dir + "/f is not a directory",
		"/f/s":   dir + "/f is not a directory",
	} {
		if be := refused(t, "a=unix://"+dir+path+",mkdir"); !strings.Contains(be.Error(), want) {
			t.Errorf("%s: got %q, want it to have %q", path, be, want)
		}
	}
	if _, err := os.Lstat(dir + "/elsewhere"); !os.IsNotExist(err) {
		t.Error("a directory was made through a symbolic link")
	}
	open(t, "a=unix://"+dir+"/to/x/s,mkdir") // as any other path
	if st, err := os.Stat(dir + "/real/x"); err != nil || !st.IsDir() {
		t.Error(err)
	}
}

// TestMkDirAgain: if the directory was removed, looking after the socket makes it again. The path needs another socket.
func TestMkDirAgain(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t) + "/d"
	sock := open(t, "a=unix://"+dir+"/s,mkdir=0701")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := sock.Repair(); !errors.Is(err, socket.ErrBeyondRepair) {
		t.Errorf("got %v", err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o701 {
		t.Errorf("the directory: %v", err)
	}
}

// TestForesee: what keeps a start from binding shows without the port or the path.
func TestForesee(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	taken := open(t, "a=127.0.0.1:0")
	for text, want := range map[string]string{
		"a=127.0.0.1:0,device=no-such-if":           "there is no interface of that name",
		"a=:1,congestion=no-such-one":               "is not one of ",
		"a=203.0.113.7:1":                           "no interface of this machine has the address 203.0.113.7",
		"a=203.0.113.7:1,freebind":                  "",
		"a=[fe80::1]:1":                             "a link-local address needs its interface",
		"a=unix://" + dir + "/none/s":               "there is no directory " + dir + "/none (the option mkdir makes it)",
		"a=unix://" + dir + "/none/s,mkdir":         "",
		"a=unix://" + dir + "/s":                    "",
		"a=unix://@x":                               "",
		"a=" + taken.Address() + ",keepalive,tos=4": "",
	} {
		err := socket.Foresee(parse(t, text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
	if names(t, dir) != "" {
		t.Errorf("there is %s", names(t, dir))
	}
}

// TestUnmappedOwner: an owner who does not exist in the user namespace is named.
func TestUnmappedOwner(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	cmd := fdtest.Helper(t, "try", "a=unix://"+dir+"/a,user=77", "b=unix://"+dir+"/b,group=78", "c=unix://"+dir+"/c,user=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.Output()
	if errors.Is(err, os.ErrPermission) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := "cannot bind a=unix://" + dir + "/a: option user: there is no uid 77 in this user namespace (/proc/self/uid_map)\n" +
		"cannot bind b=unix://" + dir + "/b: option group: there is no gid 78 in this user namespace (/proc/self/gid_map)\nok\n"
	if string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

// TestRepairKeepsOptions: undoing what a worker did to a socket leaves it with the options of its spec.
func TestRepairKeepsOptions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for the options mark and transparent")
	}
	const options = ",freebind,transparent,device=lo,mark=7,tos=8,rcvbuf=32K,sndbuf=16K"
	const connected, tcp = "connected to one peer", options + ",nodelay,keepalive=61/11/6,user-timeout=7s,defer-accept=3s,fastopen=5"
	more := func(t *testing.T, sock *socket.Socket) map[string]string {
		is := optionsOf(t, sock)
		control(t, sock, func(fd int) {
			device, err := unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
			is["device"] = fmt.Sprint(device, err)
			for name, option := range map[string][2]int{
				"mark": {unix.SOL_SOCKET, unix.SO_MARK}, "freebind": {unix.SOL_IP, unix.IP_FREEBIND},
				"transparent": {unix.SOL_IP, unix.IP_TRANSPARENT},
				"defer":       {unix.SOL_TCP, unix.TCP_DEFER_ACCEPT}, "fastopen": {unix.SOL_TCP, unix.TCP_FASTOPEN},
			} {
				n, err := unix.GetsockoptInt(fd, option[0], option[1])
				is[name] = fmt.Sprint(n, err)
			}
		})
		return is
	}
	for _, test := range []struct {
		spec, undone string
		harm         func(fd int) error
	}{
		{"a=udp://127.0.0.1:0" + options, connected, connectSelf},
		{"a=udp://:0" + options, connected, connectSelf},
		{"a=udp6://[::1]:0" + options, connected, connectSelf},
		{"a=127.0.0.1:0" + tcp, "shut down", shutdown(unix.SHUT_RDWR)},
		{"a=:0" + tcp, "shut down", shutdown(unix.SHUT_RDWR)},
		{"a=127.0.0.1:0" + tcp, "shut down", connectAway},
	} {
		t.Run(test.spec, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			sock := open(t, test.spec)
			was := more(t, sock)
			do(t, sock, test.harm)
			repaired(t, sock, test.undone)
			if is := more(t, sock); !maps.Equal(is, was) {
				t.Errorf("now %v, was %v", is, was)
			}
			repaired(t, sock)
		})
	}
}

// connectAway shuts a TCP listener down, and connects it to another one.
func connectAway(fd int) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		return err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: ln.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}})
	if errors.Is(err, unix.EINPROGRESS) {
		return nil
	}
	return err
}
