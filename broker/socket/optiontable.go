//go:build linux

package socket

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// An option is one word that may follow the address of a spec.
type option struct {
	name string
	on   netSet // the networks that have it
	// value is what stands for its value in messages; empty for a flag, which
	// may stand alone.
	value string
	// parse sets it from the text of its value.
	parse func(o *Options, value string) error
	// text returns its value in canonical form, false where it has its default.
	text func(o *Options) (string, bool)
}

// optionTable is constant. Its order is the one in which specs are printed.
var optionTable = [...]option{
	number("backlog", connNets, func(o *Options) *int { return &o.Backlog }),
	{"allow", allNets | anyNet, "WHO[+WHO]...", parseAllow, allowText},
	number("max", allNets|anyNet, func(o *Options) *int { return &o.Max }),
	{"mode", unixNets, "MODE", parseMode, modeText},
	owner("user", lookupUser, func(o *Options) *string { return &o.User }),
	owner("group", lookupGroup, func(o *Options) *string { return &o.Group }),
	flag("v6only", inetNets&^only4, func(o *Options) *bool { return &o.V6Only }),
	flag("freebind", inetNets, func(o *Options) *bool { return &o.FreeBind }),
	flag("transparent", inetNets, func(o *Options) *bool { return &o.Transparent }),
	{"device", inetNets, "INTERFACE", parseDevice, func(o *Options) (string, bool) { return o.Device, o.Device != "" }},
	{"mark", inetNets, "N", parseMark, func(o *Options) (string, bool) { return strconv.FormatUint(uint64(o.Mark), 10), o.Mark != 0 }},
	{"defer-accept", tcpNets, "DURATION", parseDefer, func(o *Options) (string, bool) { return o.DeferAccept.String(), o.DeferAccept != 0 }},
	number("fastopen", tcpNets, func(o *Options) *int { return &o.FastOpen }),
	flag("nodelay", tcpNets, func(o *Options) *bool { return &o.NoDelay }),
	flag("keepalive", tcpNets, func(o *Options) *bool { return &o.KeepAlive }),
	flag("blocking", allNets|anyNet, func(o *Options) *bool { return &o.Blocking }),
}

// number describes an option whose value is a number of at least one.
func number(name string, on netSet, field func(*Options) *int) option {
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
func flag(name string, on netSet, field func(*Options) *bool) option {
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
func owner(name string, lookup func(string) (uint32, error), field func(*Options) *string) option {
	return option{name, unixNets, "NAME", func(o *Options, value string) error {
		id, err := ownerID(value, lookup)
		if isDigits(value) {
			value = strconv.FormatUint(uint64(id), 10)
		}
		*field(o) = strings.Clone(value)
		return err
	}, func(o *Options) (string, bool) { return *field(o), *field(o) != "" }}
}

// ownerID returns the id of a user or group that is given by number or name.
func ownerID(text string, lookup func(string) (uint32, error)) (uint32, error) {
	if isDigits(text) {
		return parseID(text)
	}
	return lookup(text)
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
	o.Device = strings.Clone(value)
	return checkInterface(value)
}

// checkInterface checks an interface's name as the kernel does (dev_valid_name).
func checkInterface(name string) error {
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/: ") {
		return fmt.Errorf("%s is not an interface's name: 1 to 15 bytes without '/', ':' and space", quote(name))
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

// parseOptions parses what follows the comma after an address of n.
func parseOptions(n *network, text string) (*Options, error) {
	o := new(Options)
	var seen uint32 // a bit for each entry of optionTable
	for word := range strings.SplitSeq(text, ",") {
		name, value, hasValue := strings.Cut(word, "=")
		i, err := findOption(n, name)
		if err != nil {
			return nil, err
		}
		if seen&(1<<i) != 0 {
			return nil, fmt.Errorf("option %s is given twice", name)
		}
		seen |= 1 << i
		if err := optionTable[i].set(o, value, hasValue); err != nil {
			return nil, fmt.Errorf("option %s: %w", name, err)
		}
	}
	return o, nil
}

// findOption returns the place in optionTable of n's option of that name.
func findOption(n *network, name string) (int, error) {
	if name == "" {
		return 0, fmt.Errorf("there is nothing between two commas or after the last; %s has %s", n.name, optionNames(n))
	}
	for i := range optionTable {
		if optionTable[i].name != name {
			continue
		}
		if !n.in(optionTable[i].on) {
			return 0, fmt.Errorf("option %s is for %s; %s has %s", name, networkNames(optionTable[i].on), n.name, optionNames(n))
		}
		return i, nil
	}
	return 0, fmt.Errorf("there is no option %s; %s has %s", quote(name), n.name, optionNames(n))
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
func optionNames(n *network) string {
	var names []string
	for i := range optionTable {
		if n.in(optionTable[i].on) {
			names = append(names, optionTable[i].name)
		}
	}
	return strings.Join(names, ", ")
}

// write appends ",OPTION=VALUE" for each option that has not its default.
func (o *Options) write(b *strings.Builder) {
	for i := range optionTable {
		text, set := optionTable[i].text(o)
		if !set {
			continue
		}
		b.WriteString("," + optionTable[i].name)
		if optionTable[i].value != "" {
			b.WriteString("=" + text)
		}
	}
}
