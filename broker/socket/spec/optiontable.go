package spec

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Options are the options of a [Spec]. The zero value has every default. [Parse] refuses options that the network does
// not have.
type Options struct {
	Backlog     int           // connections that may wait, plus one; 0, and at most: net.core.somaxconn
	Allow       []Who         // may be handed the socket; empty: the broker's own uid and root
	Max         int           // processes that may be active on the socket; 0: no limit
	Mode        *os.FileMode  // of a Unix socket's path; nil: 0777 less the umask
	User, Group string        // of a Unix socket's path, name or number; empty: the broker's own
	V6Only      bool          // keep IPv4 out of an IPv6 socket (IPV6_V6ONLY); tcp6 and udp6 imply it
	FreeBind    bool          // allow an address that no interface has (IP_FREEBIND)
	Transparent bool          // allow any address at all (IP_TRANSPARENT)
	Device      string        // the only interface to listen on (SO_BINDTODEVICE)
	Mark        uint32        // of packets sent (SO_MARK); 0: none
	DeferAccept time.Duration // how long accept waits for data, in whole seconds (TCP_DEFER_ACCEPT); 0: not at all
	FastOpen    int           // limit of waiting connections with data in the handshake (TCP_FASTOPEN); 0: off
	NoDelay     bool          // TCP_NODELAY for accepted connections
	KeepAlive   bool          // SO_KEEPALIVE for accepted connections
	TOS         uint8         // of packets sent, for IPv4 and IPv6 (IP_TOS, IPV6_TCLASS); 0: none
	Probes      Probes        // of KeepAlive
	RcvBuf      int32         // bytes (SO_RCVBUF); 0: the kernel's default
	SndBuf      int32         // bytes (SO_SNDBUF); 0: the kernel's default
	UserTimeout time.Duration // how long sent data may stay unacknowledged (TCP_USER_TIMEOUT); 0: the kernel's default
	Congestion  string        // the congestion control (TCP_CONGESTION); empty: the kernel's default
	MkDir       *os.FileMode  // of missing directories above a Unix socket's path; nil: make none
	Blocking    bool          // open the socket without O_NONBLOCK
}

// Probes are the times of keep-alive probes. In each field, zero is the kernel's default.
type Probes struct {
	Idle     uint16 // seconds before the first probe (TCP_KEEPIDLE)
	Interval uint16 // seconds between two (TCP_KEEPINTVL)
	Count    uint8  // that may stay without an answer (TCP_KEEPCNT)
}

// defaults is shared by specs without options. It is constant.
var defaults Options

// An option is one word that may follow the address of a spec.
type option struct {
	name  string
	on    Set    // the networks that have it
	value string // stands for its value in messages; empty for a flag
	bare  bool   // it may stand without a value, which means yes
	parse func(o *Options, value string) error
	text  func(o *Options) (string, bool) // its value in canonical form, empty for yes; false if that is the default
}

// optionTable is constant. Specs are printed in its order.
var optionTable = [...]option{
	typed("backlog", Listening, "N", func(o *Options) *int { return &o.Backlog }, parseNumber),
	{"allow", All | anyNet, "WHO[+WHO]...", false, parseAllow, allowText},
	typed("max", All|anyNet, "N", func(o *Options) *int { return &o.Max }, parseNumber),
	fileMode("mode", false, func(o *Options) **os.FileMode { return &o.Mode }),
	owner("user", func(o *Options) *string { return &o.User }),
	owner("group", func(o *Options) *string { return &o.Group }),
	flag("v6only", Inet&^Only4, func(o *Options) *bool { return &o.V6Only }),
	flag("freebind", Inet, func(o *Options) *bool { return &o.FreeBind }),
	flag("transparent", Inet, func(o *Options) *bool { return &o.Transparent }),
	typed("device", Inet, "INTERFACE", func(o *Options) *string { return &o.Device }, parseInterface),
	typed("mark", Inet, "N", func(o *Options) *uint32 { return &o.Mark }, parseMark),
	typed("defer-accept", TCP, "DURATION", func(o *Options) *time.Duration { return &o.DeferAccept }, parseDefer),
	typed("fastopen", TCP, "N", func(o *Options) *int { return &o.FastOpen }, parseNumber),
	flag("nodelay", TCP, func(o *Options) *bool { return &o.NoDelay }),
	{"keepalive", TCP, "IDLE/INTERVAL/COUNT", true, parseKeepAlive, keepAliveText},
	typed("user-timeout", TCP, "DURATION", func(o *Options) *time.Duration { return &o.UserTimeout }, parseTimeout),
	typed("congestion", TCP, "NAME", func(o *Options) *string { return &o.Congestion }, parseCongestion),
	typed("tos", Inet, "N", func(o *Options) *uint8 { return &o.TOS }, parseTOS),
	size("rcvbuf", func(o *Options) *int32 { return &o.RcvBuf }),
	size("sndbuf", func(o *Options) *int32 { return &o.SndBuf }),
	fileMode("mkdir", true, func(o *Options) **os.FileMode { return &o.MkDir }),
	flag("blocking", All|anyNet, func(o *Options) *bool { return &o.Blocking }),
}

// typed describes an option whose value is of type T, and by default the zero value.
func typed[T comparable](name string, on Set, value string, field func(*Options) *T,
	parse func(string) (T, error)) option {
	return option{name, on, value, false, func(o *Options, value string) (err error) {
		*field(o), err = parse(value)
		return err
	}, func(o *Options) (string, bool) {
		v := *field(o)
		return fmt.Sprint(v), v != *new(T)
	}}
}

// flag describes an option that is on or off.
func flag(name string, on Set, field func(*Options) *bool) option {
	opt := typed(name, on, "", field, parseBool)
	opt.bare, opt.text = true, func(o *Options) (string, bool) { return "", *field(o) }
	return opt
}

// size describes an option whose value is a number of bytes.
func size(name string, field func(*Options) *int32) option {
	opt := typed(name, Inet, "BYTES", field, parseSize)
	opt.text = func(o *Options) (string, bool) { return sizeText(*field(o)), *field(o) != 0 }
	return opt
}

// fileMode describes an option whose value is the mode of a file. If it may stand without a value, that means 0755.
func fileMode(name string, bare bool, field func(*Options) **os.FileMode) option {
	return option{name, Unix, "MODE", bare, func(o *Options, value string) (err error) {
		*field(o), err = parseMode(value, bare)
		return err
	}, func(o *Options) (string, bool) {
		mode := *field(o)
		switch {
		case mode == nil:
			return "", false
		case bare && *mode == defaultMode:
			return "", true
		}
		return fmt.Sprintf("%04o", *mode), true
	}}
}

// ParseOptions parses the text behind the comma after an address of n.
func ParseOptions(n *Network, text string) (*Options, error) {
	o, seen := new(Options), make(map[*option]bool)
	for word := range strings.SplitSeq(text, ",") {
		name, value, hasValue := strings.Cut(word, "=")
		opt, err := findOption(n, name)
		if err != nil {
			return nil, err
		}
		if seen[opt] {
			return nil, fmt.Errorf("option %s is given twice", name)
		}
		seen[opt] = true
		switch {
		case !hasValue && !opt.bare:
			err = fmt.Errorf("it needs a value: %s=%s", name, opt.value)
		case !hasValue:
			err = opt.parse(o, "yes")
		default:
			err = opt.parse(o, value)
		}
		if err != nil {
			return nil, fmt.Errorf("option %s: %w", name, err)
		}
	}
	return o, nil
}

func findOption(n *Network, name string) (*option, error) {
	if name == "" {
		return nil, fmt.Errorf("there is nothing between two commas or after the last; %s", optionsOf(n))
	}
	i := slices.IndexFunc(optionTable[:], func(opt option) bool { return opt.name == name })
	switch {
	case i < 0 && strings.TrimSpace(name) != name:
		return nil, fmt.Errorf("there is a space at option %s: a spec has no spaces", Quote(name))
	case i < 0:
		return nil, fmt.Errorf("there is no option %s; %s", Quote(name), optionsOf(n))
	case !n.In(optionTable[i].on):
		return nil, fmt.Errorf("option %s is for %s; %s", name, NetworkNames(optionTable[i].on), optionsOf(n))
	}
	return &optionTable[i], nil
}

// optionsOf says which options n has, for error messages.
func optionsOf(n *Network) string {
	var names []string
	for _, opt := range optionTable {
		if n.In(opt.on) {
			names = append(names, opt.name)
		}
	}
	return n.Name + " has " + strings.Join(names, ", ")
}

// write appends ",OPTION=VALUE" for each option that differs from its default.
func (o *Options) write(b *strings.Builder) {
	for _, opt := range optionTable {
		if text, set := opt.text(o); set && text == "" {
			b.WriteString("," + opt.name)
		} else if set {
			b.WriteString("," + opt.name + "=" + text)
		}
	}
}
