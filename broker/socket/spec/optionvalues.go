package spec

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

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

// defaultMode is systemd's DirectoryMode=.
const defaultMode os.FileMode = 0o755

// parseMode parses an octal mode. If a flag is allowed, yes is the default mode and no is none.
func parseMode(value string, flag bool) (*os.FileMode, error) {
	if on, err := parseBool(value); flag && err == nil && !isDigits(value) {
		if !on {
			return nil, nil
		}
		return new(defaultMode), nil
	}
	n, err := strconv.ParseUint(value, 8, 32)
	if err != nil || n > 0o777 {
		return nil, fmt.Errorf("%q is not an octal mode from 0000 to 0777", value)
	}
	return new(os.FileMode(n)), nil
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

// parseDuration takes "5s" and "1m30s", and like systemd plain seconds.
func parseDuration(value string) (time.Duration, error) {
	if isDigits(value) {
		value += "s"
	}
	return time.ParseDuration(value)
}

// parseSeconds parses a duration in whole seconds, at most that many.
func parseSeconds(value string, most int) (time.Duration, error) {
	d, err := parseDuration(value)
	switch {
	case err != nil || d < time.Second || d%time.Second != 0:
		return 0, fmt.Errorf("%q is not a whole number of seconds, such as 5s or 1m30s", value)
	case d/time.Second > time.Duration(most):
		return 0, fmt.Errorf("%q is more than %d seconds", value, most)
	}
	return d, nil
}

func parseDefer(value string) (time.Duration, error) { return parseSeconds(value, math.MaxInt32) }

func parseTimeout(value string) (time.Duration, error) {
	d, err := parseDuration(value)
	if err != nil || d < time.Millisecond || d%time.Millisecond != 0 || d > math.MaxInt32*time.Millisecond {
		return 0, fmt.Errorf("%q is not a whole number of milliseconds, such as 30s or 500ms", value)
	}
	return d, nil
}

// The kernel's limits of keep-alive times and probes (MAX_TCP_KEEPIDLE and so on).
const (
	maxKeepSeconds = 32767
	maxKeepCount   = 127
)

// parseKeepAlive takes yes, no and IDLE/INTERVAL/COUNT.
func parseKeepAlive(o *Options, value string) (err error) {
	idle, rest, found := strings.Cut(value, "/")
	interval, count, found2 := strings.Cut(rest, "/")
	if !found || !found2 {
		if o.KeepAlive, err = parseBool(value); err != nil {
			err = fmt.Errorf("%q is neither IDLE/INTERVAL/COUNT, such as 60s/10s/5, nor yes or no", value)
		}
		return err
	}
	first, err := parseSeconds(idle, maxKeepSeconds)
	if err != nil {
		return err
	}
	next, err := parseSeconds(interval, maxKeepSeconds)
	if err != nil {
		return err
	}
	n, err := parseNumber(count)
	if err != nil || n > maxKeepCount {
		return fmt.Errorf("%q is not a number of probes from 1 to %d", count, maxKeepCount)
	}
	o.KeepAlive, o.Probes = true, Probes{uint16(first / time.Second), uint16(next / time.Second), uint8(n)}
	return nil
}

func keepAliveText(o *Options) (string, bool) {
	if p := o.Probes; o.KeepAlive && p != (Probes{}) {
		seconds := func(n uint16) time.Duration { return time.Duration(n) * time.Second }
		return fmt.Sprintf("%v/%v/%d", seconds(p.Idle), seconds(p.Interval), p.Count), true
	}
	return "", o.KeepAlive
}

// parseCongestion checks the name of a congestion control as the kernel does (TCP_CA_NAME_MAX).
func parseCongestion(name string) (string, error) {
	if len(name) > 15 || !IsWord(name) || name == "" {
		return "", fmt.Errorf("%s is not the name of a congestion control, such as cubic or bbr", Quote(name))
	}
	return name, nil
}

func parseTOS(value string) (uint8, error) {
	switch value { // the names of systemd's IPTOS=
	case "low-delay":
		return 0x10, nil
	case "throughput":
		return 0x08, nil
	case "reliability":
		return 0x04, nil
	case "low-cost":
		return 0x02, nil
	}
	n, err := strconv.ParseUint(value, 0, 8)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number from 0 to 255 (0x... is hexadecimal), low-delay, throughput, "+
			"reliability or low-cost", value)
	}
	return uint8(n), nil
}

// maxSize is the kernel's limit of a buffer: it doubles the number.
const maxSize = math.MaxInt32 / 2

// sizeUnits are those of systemd's ReceiveBuffer=, the largest first.
var sizeUnits = []struct {
	suffix string
	bytes  uint64
}{{"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}}

// parseSize takes "65536" and "64K".
func parseSize(value string) (int32, error) {
	number, unit := value, uint64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(value, u.suffix); ok {
			number, unit = rest, u.bytes
		}
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil || n == 0 || n*unit > maxSize {
		return 0, fmt.Errorf("%q is not a number of bytes from 1 to %d, such as 65536, 64K or 8M", value, maxSize)
	}
	return int32(n * unit), nil
}

func sizeText(n int32) string {
	for _, u := range sizeUnits {
		if uint64(n)%u.bytes == 0 {
			return strconv.FormatUint(uint64(n)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.Itoa(int(n))
}
