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
	typed("backlog", Listening, "N", func(o *Options) *int { return &o.Backlog }, parseNumber),
	{"allow", All | anyNet, "WHO[+WHO]...", parseAllow, allowText},
	typed("max", All|anyNet, "N", func(o *Options) *int { return &o.Max }, parseNumber),
	{"mode", Unix, "MODE", parseMode, modeText},
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
	flag("keepalive", TCP, func(o *Options) *bool { return &o.KeepAlive }),
	flag("blocking", All|anyNet, func(o *Options) *bool { return &o.Blocking }),
}

// typed describes an option whose value is of type T, and by default the zero value.
func typed[T comparable](name string, on Set, value string, field func(*Options) *T,
	parse func(string) (T, error)) option {
	return option{name, on, value, func(o *Options, value string) (err error) {
		*field(o), err = parse(value)
		return err
	}, func(o *Options) (string, bool) {
		v := *field(o)
		return fmt.Sprint(v), v != *new(T)
	}}
}

// flag describes an option that is on or off.
func flag(name string, on Set, field func(*Options) *bool) option {
	return typed(name, on, "", field, parseBool)
}

func parseBool(value string) (bool, error) {
	switch value {
	case "yes", "true", "on", "1":
		return true, nil
	case "no", "false", "off", "0":
		return false, nil
	}
	return false, fmt.Errorf("%q is none of yes, no, true, false, on, off, 1 and 0", value)
}

func parseNumber(value string) (int, error) {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a number from 1 to %d", value, math.MaxInt32)
	}
	return int(n), nil
}

// owner describes an option that names a user or a group, which must exist.
func owner(name string, field func(*Options) *string) option {
	return typed(name, Unix, "NAME", field, func(value string) (string, error) {
		id, err := ownerID(name, value)
		if isDigits(value) {
			value = fmt.Sprint(id)
		}
		return value, err
	})
}

// Owner returns the ids that the options user and group say, -1 if they say none. The error is an [*OptionError].
func (o *Options) Owner() (uid, gid int, err error) {
	ids := [2]int{-1, -1}
	for i, owner := range [2]struct{ kind, text string }{{"user", o.User}, {"group", o.Group}} {
		if owner.text == "" {
			continue
		}
		id, err := ownerID(owner.kind, owner.text)
		if err != nil {
			return -1, -1, &OptionError{owner.kind, err}
		}
		ids[i] = int(id)
	}
	return ids[0], ids[1], nil
}

// ownerID returns the id of a user or group, as kind says, that is given by number or name.
func ownerID(kind, text string) (uint32, error) {
	if isDigits(text) {
		return parseID(text)
	}
	return lookup(kind, text)
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
	o.Mode = new(os.FileMode(n))
	return nil
}

func modeText(o *Options) (string, bool) {
	if o.Mode == nil {
		return "", false
	}
	return fmt.Sprintf("%04o", *o.Mode), true
}

// parseInterface checks an interface's name as the kernel does (dev_valid_name).
func parseInterface(name string) (string, error) {
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/: ") {
		return "", fmt.Errorf("%s is not an interface's name: 1 to 15 bytes without '/', ':' and space", Quote(name))
	}
	return name, nil
}

func parseMark(value string) (uint32, error) {
	n, err := strconv.ParseUint(value, 0, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a number from 1 to %d (0x... is hexadecimal)", value, uint32(math.MaxUint32))
	}
	return uint32(n), nil
}

// parseDefer takes "5s" and "1m30s", and like systemd plain seconds.
func parseDefer(value string) (time.Duration, error) {
	text := value
	if isDigits(value) {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d%time.Second != 0 || d > math.MaxInt32*time.Second {
		return 0, fmt.Errorf("%q is not a whole number of seconds, such as 5s or 1m30s", value)
	}
	return d, nil
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
		case !hasValue && opt.value != "":
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
		if text, set := opt.text(o); set && opt.value == "" {
			b.WriteString("," + opt.name)
		} else if set {
			b.WriteString("," + opt.name + "=" + text)
		}
	}
}
