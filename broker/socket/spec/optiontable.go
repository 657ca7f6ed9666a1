package spec

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
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
	Blocking    bool          // open the socket without O_NONBLOCK
}

// defaults is shared by specs without options. It is constant.
var defaults Options

// An option is one word that may follow the address of a spec.
type option struct {
	name  string
	on    Set    // the networks that have it
	value string // stands for its value in messages; empty for a flag, which needs no value
	parse func(o *Options, value string) error
	text  func(o *Options) (string, bool) // its value in canonical form, and false if that is the default
}

// optionTable is constant. Specs are printed in its order.
var optionTable = [...]option{
	number("backlog", Listening, func(o *Options) *int { return &o.Backlog }),
	{"allow", All | anyNet, "WHO[+WHO]...", parseAllow, allowText},
	number("max", All|anyNet, func(o *Options) *int { return &o.Max }),
	{"mode", Unix, "MODE", parseMode, modeText},
	owner("user", func(o *Options) *string { return &o.User }),
	owner("group", func(o *Options) *string { return &o.Group }),
	flag("v6only", Inet&^Only4, func(o *Options) *bool { return &o.V6Only }),
	flag("freebind", Inet, func(o *Options) *bool { return &o.FreeBind }),
	flag("transparent", Inet, func(o *Options) *bool { return &o.Transparent }),
	{"device", Inet, "INTERFACE", parseDevice, func(o *Options) (string, bool) { return o.Device, o.Device != "" }},
	{"mark", Inet, "N", parseMark, func(o *Options) (string, bool) { return strconv.FormatUint(uint64(o.Mark), 10), o.Mark != 0 }},
	{"defer-accept", TCP, "DURATION", parseDefer, func(o *Options) (string, bool) { return o.DeferAccept.String(), o.DeferAccept != 0 }},
	number("fastopen", TCP, func(o *Options) *int { return &o.FastOpen }),
	flag("nodelay", TCP, func(o *Options) *bool { return &o.NoDelay }),
	flag("keepalive", TCP, func(o *Options) *bool { return &o.KeepAlive }),
	flag("blocking", All|anyNet, func(o *Options) *bool { return &o.Blocking }),
}

// number describes an option whose value is a number of at least one.
func number(name string, on Set, field func(*Options) *int) option {
	return option{name, on, "N", func(o *Options, value string) error {
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is not a number from 1 to %d", value, math.MaxInt32)
		}
		*field(o) = int(n)
		return nil
	}, func(o *Options) (string, bool) {
		n := *field(o)
		return strconv.Itoa(n), n != 0
	}}
}

// flag describes an option that is on or off.
func flag(name string, on Set, field func(*Options) *bool) option {
	return option{name, on, "", func(o *Options, value string) error {
		switch value {
		case "yes", "true", "on", "1":
			*field(o) = true
		case "no", "false", "off", "0":
			*field(o) = false
		default:
			return fmt.Errorf("%q is none of yes, no, true, false, on, off, 1 and 0", value)
		}
		return nil
	}, func(o *Options) (string, bool) { return "", *field(o) }}
}

// owner describes an option that names a user or a group, which must exist.
func owner(name string, field func(*Options) *string) option {
	return option{name, Unix, "NAME", func(o *Options, value string) error {
		id, err := ownerID(name, value)
		if isDigits(value) {
			value = strconv.Itoa(id)
		}
		*field(o) = value
		return err
	}, func(o *Options) (string, bool) { return *field(o), *field(o) != "" }}
}

// Owner returns the ids that the options user and group say, -1 if they say none. The error is an [*OptionError].
func (o *Options) Owner() (uid, gid int, err error) {
	uid, gid = -1, -1
	if o.User != "" {
		if uid, err = ownerID("user", o.User); err != nil {
			return -1, -1, &OptionError{"user", err}
		}
	}
	if o.Group != "" {
		if gid, err = ownerID("group", o.Group); err != nil {
			return -1, -1, &OptionError{"group", err}
		}
	}
	return uid, gid, nil
}

// ownerID returns the id of a user or group, as kind says, that is given by number or name.
func ownerID(kind, text string) (int, error) {
	if isDigits(text) {
		id, err := parseID(text)
		return int(id), err
	}
	id, err := lookup(kind, text)
	return int(id), err
}

func parseAllow(o *Options, value string) error {
	for entry := range strings.SplitSeq(value, "+") {
		w, err := parseWho(entry)
		if err != nil {
			return err
		}
		o.Allow = append(o.Allow, w)
	}
	return nil
}

func allowText(o *Options) (string, bool) {
	texts := make([]string, len(o.Allow))
	for i, w := range o.Allow {
		texts[i] = w.String()
	}
	return strings.Join(texts, "+"), len(texts) > 0
}

func parseMode(o *Options, value string) error {
	n, err := strconv.ParseUint(value, 8, 32)
	if err != nil || n > 0o777 {
		return fmt.Errorf("%q is not an octal mode from 0000 to 0777", value)
	}
	mode := os.FileMode(n)
	o.Mode = &mode
	return nil
}

func modeText(o *Options) (string, bool) {
	if o.Mode == nil {
		return "", false
	}
	return fmt.Sprintf("%04o", *o.Mode), true
}

func parseDevice(o *Options, value string) error {
	o.Device = value
	return checkInterface(value)
}

// checkInterface checks an interface's name as the kernel does (dev_valid_name).
func checkInterface(name string) error {
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/: ") {
		return fmt.Errorf("%s is not an interface's name: 1 to 15 bytes without '/', ':' and space", Quote(name))
	}
	return nil
}

func parseMark(o *Options, value string) error {
	n, err := strconv.ParseUint(value, 0, 32)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is not a number from 1 to %d (0x... is hexadecimal)", value, uint32(math.MaxUint32))
	}
	o.Mark = uint32(n)
	return nil
}

// parseDefer takes "5s" and "1m30s", and like systemd plain seconds.
func parseDefer(o *Options, value string) error {
	text := value
	if isDigits(value) {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d%time.Second != 0 || d > math.MaxInt32*time.Second {
		return fmt.Errorf("%q is not a whole number of seconds, such as 5s or 1m30s", value)
	}
	o.DeferAccept = d
	return nil
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
		if err := opt.set(o, value, hasValue); err != nil {
			return nil, fmt.Errorf("option %s: %w", name, err)
		}
	}
	return o, nil
}

// findOption returns the option of n with that name.
func findOption(n *Network, name string) (*option, error) {
	if name == "" {
		return nil, fmt.Errorf("there is nothing between two commas or after the last; %s has %s", n.Name, optionNames(n))
	}
	i := slices.IndexFunc(optionTable[:], func(opt option) bool { return opt.name == name })
	switch {
	case i < 0:
		return nil, fmt.Errorf("there is no option %s; %s has %s", Quote(name), n.Name, optionNames(n))
	case !n.In(optionTable[i].on):
		return nil, fmt.Errorf("option %s is for %s; %s has %s", name, NetworkNames(optionTable[i].on), n.Name, optionNames(n))
	}
	return &optionTable[i], nil
}

func (opt *option) set(o *Options, value string, hasValue bool) error {
	switch {
	case hasValue:
		return opt.parse(o, value)
	case opt.value == "":
		return opt.parse(o, "yes")
	}
	return fmt.Errorf("it needs a value: %s=%s", opt.name, opt.value)
}

// optionNames lists the options of n, for error messages.
func optionNames(n *Network) string {
	var names []string
	for _, opt := range optionTable {
		if n.In(opt.on) {
			names = append(names, opt.name)
		}
	}
	return strings.Join(names, ", ")
}

// write appends ",OPTION=VALUE" for each option that differs from its default.
func (o *Options) write(b *strings.Builder) {
	for _, opt := range optionTable {
		if text, set := opt.text(o); set && opt.value == "" {
			b.WriteString("," + opt.name)
		} else if set {
			b.WriteString("," + opt.name + "=" + text)
		}
	}
}
