package spec_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
)

func TestParse(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	mode, usual := os.FileMode(0o660), os.FileMode(0o755)
	for _, test := range []struct {
		name, text string
		network    string
		address    string
		options    spec.Options
		canonical  string // empty: text itself
	}{
		{name: "colon and port", text: "web=:9000", network: "tcp", address: ":9000"},
		{name: "bare port", text: "web=9000", network: "tcp", address: ":9000", canonical: "web=:9000"},
		{name: "port zero", text: "web=:0", network: "tcp", address: ":0"},
		{name: "leading zeros", text: "web=:0080", network: "tcp", address: ":80", canonical: "web=:80"},
		{name: "named port", text: "web=:http", network: "tcp", address: ":80", canonical: "web=:80"},
		{name: "host called like a network", text: "web=tcp://udp:9000", network: "tcp", address: "udp:9000", canonical: "web=tcp://udp:9000"},
		{name: "host", text: "web=localhost:9000", network: "tcp", address: "localhost:9000"},
		{name: "tcp said", text: "web=tcp://127.0.0.1:9000", network: "tcp", address: "127.0.0.1:9000", canonical: "web=127.0.0.1:9000"},
		{name: "tcp with a bare port", text: "web=tcp://9000", network: "tcp", address: ":9000", canonical: "web=:9000"},
		{name: "ipv6", text: "web=[::1]:9000", network: "tcp", address: "[::1]:9000"},
		{name: "ipv6 shortened", text: "web=[0:0:0:0:0:0:0:1]:9000", network: "tcp", address: "[::1]:9000", canonical: "web=[::1]:9000"},
		{name: "ipv4 in ipv6", text: "web=[::ffff:127.0.0.1]:9000", network: "tcp", address: "127.0.0.1:9000", canonical: "web=127.0.0.1:9000"},
		{name: "zone", text: "web=[fe80::1%eth0]:9000", network: "tcp", address: "[fe80::1%eth0]:9000"},
		{name: "tcp4", text: "web=tcp4://:9000", network: "tcp4", address: ":9000"},
		{name: "udp6", text: "dns=udp6://[::1]:53", network: "udp6", address: "[::1]:53"},
		{name: "unix", text: "app=unix:///run/app.sock", network: "unix", address: "/run/app.sock"},
		{name: "unix cleaned", text: "app=unix:///run//./app.sock", network: "unix", address: "/run/app.sock", canonical: "app=unix:///run/app.sock"},
		{name: "unix relative", text: "app=unix://x.sock", network: "unix", address: filepath.Join(dir, "x.sock"), canonical: "app=unix://" + filepath.Join(dir, "x.sock")},
		{name: "abstract", text: "app=unixgram://@app", network: "unixgram", address: "@app"},
		{name: "longest path", text: "app=unix:///" + strings.Repeat("x", 106), network: "unix", address: "/" + strings.Repeat("x", 106)},
		{name: "unixpacket", text: "app=unixpacket:///run/a=b", network: "unixpacket", address: "/run/a=b"},
		{
			name: "all of tcp", text: "w=:1,blocking,keepalive,nodelay=1,fastopen=5,defer-accept=5,mark=0x10,device=lo,transparent=on,freebind=yes,v6only=true,max=2,backlog=9",
			network: "tcp", address: ":1",
			options: spec.Options{Backlog: 9, Max: 2, V6Only: true, FreeBind: true, Transparent: true, Device: "lo", Mark: 16,
				DeferAccept: 5 * time.Second, FastOpen: 5, NoDelay: true, KeepAlive: true, Blocking: true},
			canonical: "w=:1,backlog=9,max=2,v6only,freebind,transparent,device=lo,mark=16,defer-accept=5s,fastopen=5,nodelay,keepalive,blocking",
		},
		{name: "owner", text: "w=unix:///x,mode=660,user=root,group=0", network: "unix", address: "/x",
			options: spec.Options{Mode: &mode, User: "root", Group: "0"}, canonical: "w=unix:///x,mode=0660,user=root,group=0"},
		{name: "minutes", text: "w=:1,defer-accept=1m30s", network: "tcp", address: ":1", options: spec.Options{DeferAccept: 90 * time.Second}},
		{name: "flags off", text: "w=:1,nodelay=no,keepalive=0,blocking=false", network: "tcp", address: ":1", canonical: "w=:1"},
		{
			name: "buffers and probes", text: "w=tcp6://:1,sndbuf=1048576,rcvbuf=64K,tos=throughput,congestion=bbr,user-timeout=1500ms,keepalive=60/10s/5",
			network: "tcp6", address: ":1",
			options: spec.Options{KeepAlive: true, Probes: spec.Probes{Idle: 60, Interval: 10, Count: 5},
				UserTimeout: 1500 * time.Millisecond, Congestion: "bbr", TOS: 8, RcvBuf: 65536, SndBuf: 1 << 20},
			canonical: "w=tcp6://:1,keepalive=1m0s/10s/5,user-timeout=1.5s,congestion=bbr,tos=8,rcvbuf=64K,sndbuf=1M",
		},
		{name: "largest buffer", text: "w=udp://:1,rcvbuf=1073741823", network: "udp", address: ":1", options: spec.Options{RcvBuf: 1073741823}},
		{name: "no tos", text: "w=udp://:1,tos=0", network: "udp", address: ":1", canonical: "w=udp://:1"},
		{name: "hexadecimal tos", text: "w=udp://:1,tos=0xb8", network: "udp", address: ":1", options: spec.Options{TOS: 0xb8}, canonical: "w=udp://:1,tos=184"},
		{name: "keepalive yes", text: "w=:1,keepalive=1", network: "tcp", address: ":1", options: spec.Options{KeepAlive: true}, canonical: "w=:1,keepalive"},
		{name: "mkdir", text: "w=unix:///x/y,mkdir", network: "unix", address: "/x/y", options: spec.Options{MkDir: &usual}},
		{name: "mkdir with a mode", text: "w=unix:///x/y,mkdir=660", network: "unix", address: "/x/y", options: spec.Options{MkDir: &mode}, canonical: "w=unix:///x/y,mkdir=0660"},
		{name: "mkdir as usual", text: "w=unix:///x/y,mkdir=0755", network: "unix", address: "/x/y", options: spec.Options{MkDir: &usual}, canonical: "w=unix:///x/y,mkdir"},
		{name: "no mkdir", text: "w=unix:///x/y,mkdir=no", network: "unix", address: "/x/y", canonical: "w=unix:///x/y"},
		{name: "every name character", text: "0aZ._-=:1", network: "tcp", address: ":1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := parse(t, test.text)
			want := spec.Spec{Name: got.Name, Network: test.network, Address: test.address, Options: &test.options}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v %+v, want %+v %+v", got, *got.Options, want, test.options)
			}
			if test.canonical == "" {
				test.canonical = test.text
			}
			if got.String() != test.canonical {
				t.Errorf("String: got %q, want %q", got, test.canonical)
			}
			if again := parse(t, got.String()); !reflect.DeepEqual(again, got) || !again.Equal(got) {
				t.Errorf("parsed again it is %+v, want %+v", again, got)
			}
		})
	}
}

func TestParseSpecErrors(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "NAME=ADDRESS"},
		{"no equals sign", "web:9000", `spec "web:9000": there is no '='`},
		{"no name", "=:9000", "the name is empty"},
		{"bad name", "we b=:9000", `" " is not allowed there`},
		{"name begins with a dot", ".web=:9000", `"." is not allowed there`},
		{"reserved name", "stored=:9000", "has a meaning to systemd"},
		{"long name", strings.Repeat("x", 256) + "=:9000", "has 256 bytes"},
		{"no address", "web=", "address \"\": it is empty"},
		{"no port", "web=localhost", "an address is PORT, :PORT"},
		{"empty port", "web=localhost:", `port "" is neither`},
		{"port too high", "web=:65536", "port 65536 is not from 0 to 65535"},
		{"unknown service", "web=:nosuchservice", "neither a number from 0 to 65535 nor a service that this machine knows"},
		{"negative port", "web=:-1", `port "-1" is neither`},
		{"ipv6 without brackets", "web=::1:9000", "[IPV6]:PORT"},
		{"empty brackets", "web=[]:9000", "nothing between the brackets"},
		{"bad host", "web=*:9000", "leave it empty for all addresses"},
		{"bad zone", "web=[fe80::1%a/b]:9000", "zone"},
		{"path without network", "web=/run/x", "written unix:///run/x"},
		{"path behind a colon", "web=unix:/run/x", "written unix:///run/x"},
		{"abstract name behind a colon", "web=unixgram:@x", "written unixgram://@x"},
		{"network without slashes", "dns=udp:53", `address "udp:53": the network is written udp://, as in udp://:53`},
		{"tcp without slashes", "web=tcp:localhost:9000", "as in tcp://localhost:9000"},
		{"upper case without slashes", "web=TCP6:9000", "as in tcp6://:9000"},
		{"slashes before the colon", "web=tcp//:9000", "as in tcp://:9000"},
		{"one slash", "web=tcp:/9000", "as in tcp://:9000"},
		{"relative path without slashes", "web=unix:run", "a Unix socket's address is written unix://run"},
		{"space in front of an option", "web=:1, backlog=100", `there is a space at option " backlog": a spec has no spaces`},
		{"space around =", "web = :1", `name "web ": " " is not allowed there: a spec has no spaces`},
		{"unknown network", "web=http://x:1", `unknown network "http"; use tcp, tcp4,`},
		{"ipv6 on tcp4", "web=tcp4://[::1]:1", "host ::1 is not one of tcp4"},
		{"ipv4 on udp6", "web=udp6://127.0.0.1:1", "host 127.0.0.1 is not one of udp6"},
		{"empty path", "web=unix://", "a Unix address is /PATH"},
		{"empty abstract name", "web=unix://@", "a Unix address is /PATH"},
		{"long path", "web=unix:///" + strings.Repeat("x", 107), "at most 107 bytes, this one has 108"},
		{"control character", "web=unix:///a\nb", "control character at byte 13"},
		{"not UTF-8", "web=unix:///\xff", "not valid UTF-8"},
		{"trailing comma", "web=:1,", "nothing between two commas"},
		{"unknown option", "web=:1,bcklog=3", `there is no option "bcklog"; tcp has backlog, allow, max,`},
		{"shards", "web=:1,shards=2", "there is no option \"shards\"; tcp has backlog"},
		{"option twice", "web=:1,max=1,max=1", "option max is given twice"},
		{"backlog of udp", "web=udp://:1,backlog=1", "option backlog is for tcp, tcp4, tcp6, unix, unixpacket; udp has"},
		{"mode of tcp", "web=:1,mode=0600", "option mode is for unix"},
		{"v6only of tcp4", "web=tcp4://:1,v6only", "option v6only is for tcp, tcp6, udp, udp6"},
		{"v6only of an IPv4 address", "web=127.0.0.1:1,v6only", "is an IPv4 one"},
		{"mode of an abstract socket", "web=unix://@a,mode=0600", "an abstract socket has no file"},
		{"no value", "web=:1,max", "option max: it needs a value: max=N"},
		{"zero backlog", "web=:1,backlog=0", `"0" is not a number from 1 to 2147483647`},
		{"huge backlog", "web=:1,backlog=2147483648", "not a number from 1"},
		{"bad flag", "web=:1,nodelay=maybe", `option nodelay: "maybe" is none of yes, no`},
		{"bad mode", "web=unix:///x,mode=0888", "not an octal mode"},
		{"mode beyond rwx", "web=unix:///x,mode=4755", "not an octal mode"},
		{"bad device", "web=:1,device=sixteen-letters-x", "not an interface's name"},
		{"bad mark", "web=:1,mark=-1", "option mark"},
		{"fraction of a second", "web=:1,defer-accept=1500ms", "not a whole number of seconds"},
		{"no size", "web=:1,rcvbuf=0", `option rcvbuf: "0" is not a number of bytes from 1 to 1073741823, such as 65536, 64K or 8M`},
		{"large size", "web=:1,sndbuf=1G", `option sndbuf: "1G" is not a number of bytes`},
		{"unit of a size", "web=:1,rcvbuf=64k", `option rcvbuf: "64k" is not a number of bytes`},
		{"size that overflows", "web=:1,rcvbuf=2147483647G", `is not a number of bytes`},
		{"buffer of a Unix socket", "web=unix:///x,rcvbuf=64K", "option rcvbuf is for tcp, tcp4, tcp6, udp, udp4, udp6; unix has"},
		{"keepalive with one number", "web=:1,keepalive=60", `"60" is neither IDLE/INTERVAL/COUNT, such as 60s/10s/5, nor yes or no`},
		{"keepalive too long", "web=:1,keepalive=32768/1/1", `option keepalive: "32768" is more than 32767 seconds`},
		{"keepalive too often", "web=:1,keepalive=1/1/128", `"128" is not a number of probes from 1 to 127`},
		{"keepalive with too much", "web=:1,keepalive=1/1/1/1", `"1/1" is not a number of probes`},
		{"congestion without a name", "web=:1,congestion=", "is not the name of a congestion control"},
		{"congestion of udp", "web=udp://:1,congestion=cubic", "option congestion is for tcp"},
		{"tos too large", "web=:1,tos=256", `option tos: "256" is not a number from 0 to 255`},
		{"tos by another name", "web=:1,tos=fast", "low-delay, throughput, reliability or low-cost"},
		{"no time", "web=:1,user-timeout=0", "not a whole number of milliseconds"},
		{"mkdir of tcp", "web=:1,mkdir", "option mkdir is for unix"},
		{"mkdir of an abstract socket", "web=unix://@a,mkdir", "an abstract socket has no file"},
		{"mkdir beyond rwx", "web=unix:///x,mkdir=1777", "not an octal mode"},
		{"mode as a flag", "web=unix:///x,mode=yes", "not an octal mode"},
		{"mode without a value", "web=unix:///x,mode", "it needs a value: mode=MODE"},
		{"no such user", "web=unix:///x,user=no-such-user", `there is no user "no-such-user"`},
		{"no such group", "web=unix:///x,group=no-such-group", `there is no group "no-such-group"`},
		{"user is none", "web=unix:///x,user=4294967295", "not a number from 0 to 4294967294"},
		{"allow nobody", "web=:1,allow=", `option allow: "": use user:NAME, uid:N, group:NAME, gid:N or any`},
		{"allow unknown user", "web=:1,allow=user:no-such-user", `there is no user "no-such-user"`},
		{"allow empty user", "web=:1,allow=user:", "the user's name is empty"},
		{"allow bad uid", "web=:1,allow=uid:x", `"x" is not a number`},
		{"allow any with a value", "web=:1,allow=any:1", `"any" takes no value`},
		{"allow the overflow uid", "web=:1,allow=uid:65534", "every user that it cannot name"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := spec.Parse(test.text)
			if err == nil {
				t.Fatalf("got %v, want an error", got)
			}
			if !strings.HasPrefix(err.Error(), `spec "`) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, want it to have %q", err, test.want)
			}
		})
	}
}

func TestSpecsWithoutOptionsShareThem(t *testing.T) {
	if parse(t, "a=:1").Options != parse(t, "b=:2").Options {
		t.Error("two specs without options have two values for them")
	}
}

func TestEqual(t *testing.T) {
	a := parse(t, "a=:1,allow=user:root+gid:5")
	if !a.Equal(parse(t, "a=tcp://1,allow=user:root+gid:5")) {
		t.Error("two ways to say the same differ")
	}
	for _, other := range []string{"b=:1,allow=user:root+gid:5", "a=:1", "a=:1,allow=uid:0+gid:5", "a=tcp4://:1,allow=user:root+gid:5"} {
		if a.Equal(parse(t, other)) {
			t.Errorf("%s equals %s", a, other)
		}
	}
	if !(spec.Spec{Name: "a", Network: "tcp", Address: ":1"}).Equal(parse(t, "a=:1")) {
		t.Error("no options differ from none given")
	}
}

func TestWho(t *testing.T) {
	for _, test := range []struct {
		who  string
		uid  uint32
		gids []uint32
		want bool
	}{
		{"uid:7", 7, []uint32{1}, true},
		{"uid:7", 8, []uint32{7}, false},
		{"user:root", 0, []uint32{1}, true},
		{"user:root", 1, []uint32{0}, false},
		{"gid:7", 1, []uint32{3, 7}, true},
		{"gid:7", 7, []uint32{3}, false},
		{"group:root", 1, []uint32{5, 0}, true},
		{"group:root", 0, nil, false},
		{"any", 65534, nil, true},
		{"any", 7, []uint32{7}, true},
	} {
		w := parse(t, "a=:1,allow="+test.who).Options.Allow[0]
		if got := w.Matches(test.uid, test.gids); got != test.want {
			t.Errorf("%s, uid %d, gids %d: got %v, want %v", w, test.uid, test.gids, got, test.want)
		}
		if w.String() != test.who {
			t.Errorf("got %q, want %q", w, test.who)
		}
	}
	if (spec.Who{}).Matches(0, []uint32{0}) {
		t.Error("the zero Who matches root")
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"web=:9000", "web=9000", "web=localhost:http,allow=user:root+gid:7+any", "a=[::1%lo]:0,v6only,nodelay=no",
		"b=udp://0.0.0.0:53,mark=0x1,device=lo", "c=unix://x,mode=7,user=0,group=root", "d=unixgram://@a/b,blocking",
		"e=tcp6://[::ffff:1.2.3.4]:1,defer-accept=100000,fastopen=1,backlog=1", "f=:1,shards=2", "=,=,", "h=unix:///a/b,mkdir=0700",
		"i=tcp4://:1,rcvbuf=3M,sndbuf=1000,tos=low-cost,keepalive=1m/2/3,user-timeout=1ms,congestion=reno", "g=tcp://[::1%x://y]:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := spec.Parse(text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "spec ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: the error does not name the spec on one line: %q", text, err)
			}
			return
		}
		again, err := spec.Parse(s.String())
		if err != nil {
			t.Fatalf("%q became %q: %v", text, s, err)
		}
		if !reflect.DeepEqual(s, again) || !s.Equal(again) || s.String() != again.String() {
			t.Fatalf("%q became %q, and that %q", text, s, again)
		}
	})
}

// BenchmarkParse also shows the memory that a spec takes.
func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := spec.Parse("web=127.0.0.1:9000"); err != nil {
			b.Fatal(err)
		}
	}
}

func parse(t testing.TB, text string) spec.Spec {
	t.Helper()
	s, err := spec.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
