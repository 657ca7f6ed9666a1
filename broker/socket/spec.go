//go:build linux

package socket

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Spec is one parsed NAME=ADDRESS[,OPTION[=VALUE]]... It is a value: copies may
// be used concurrently.
type Spec struct {
	// Name identifies the listener; see [CheckName].
	Name string
	// Network is tcp, tcp4, tcp6, udp, udp4, udp6, unix, unixpacket or unixgram.
	Network string
	// Address is normalised: "host:9000", ":9000", "[::1]:9000" with the port as a
	// number; an absolute path; or "@name" for an abstract socket.
	Address string
	// Options is never nil after ParseSpec. Specs without options share one
	// value, so nobody may change what it points to. Nil means no options.
	Options *Options
}

// ParseSpec parses text. Its error is one line that names the spec, the part
// that is wrong, and what is allowed.
//
// A relative Unix path is made absolute here, users and groups are looked up,
// and a port's name becomes its number; host names are resolved by [Open].
func ParseSpec(text string) (Spec, error) {
	s, err := parseSpec(text)
	if err != nil {
		return Spec{}, fmt.Errorf("spec %s: %w", quote(text), err)
	}
	return s, nil
}

func parseSpec(text string) (Spec, error) {
	if err := checkText(text); err != nil {
		return Spec{}, err
	}
	name, rest, found := strings.Cut(text, "=")
	if !found {
		return Spec{}, errors.New("there is no '=' in it; a spec is NAME=ADDRESS[,OPTION[=VALUE]]... and nothing else")
	}
	if err := CheckName(name); err != nil {
		return Spec{}, err
	}
	address, options, found := strings.Cut(rest, ",")
	n, address, err := parseAddress(address)
	if err != nil {
		return Spec{}, err
	}
	// Cloned, as a part of text would keep all of it in memory.
	s := Spec{strings.Clone(name), n.name, strings.Clone(address), &defaults}
	if found {
		if s.Options, err = parseOptions(n, options); err != nil {
			return Spec{}, err
		}
	}
	return s, s.checkTogether()
}

// checkText refuses what could not be printed on a line or sent as JSON.
func checkText(text string) error {
	if !utf8.ValidString(text) {
		return errors.New("it is not valid UTF-8")
	}
	if i := strings.IndexFunc(text, unicode.IsControl); i >= 0 {
		return fmt.Errorf("there is a control character at byte %d", i)
	}
	return nil
}

// checkTogether refuses options that the network has but the address has not.
func (s Spec) checkTogether() error {
	o := s.Options
	if strings.HasPrefix(s.Address, "@") && (o.Mode != nil || o.User != "" || o.Group != "") {
		return fmt.Errorf("address %q: an abstract socket has no file, so it cannot have the options mode, user and group", s.Address)
	}
	if o.V6Only && networkOf(s.Network).in(inetNets) && isLiteral4(s.Address) {
		return fmt.Errorf("option v6only: address %q is an IPv4 one", s.Address)
	}
	return nil
}

// String returns the canonical text of s: parsing it gives an equal Spec.
func (s Spec) String() string {
	var b strings.Builder
	b.WriteString(s.head())
	if s.Options != nil {
		s.Options.write(&b)
	}
	return b.String()
}

// head returns NAME=ADDRESS, which is enough to know the spec by in a message.
func (s Spec) head() string {
	if s.Network == "tcp" {
		return s.Name + "=" + s.Address
	}
	return s.Name + "=" + s.Network + "://" + s.Address
}

// Equal reports whether s and o mean the same, whoever allow= names having the
// same ids in both.
func (s Spec) Equal(o Spec) bool {
	return s.String() == o.String() && slices.Equal(s.options().Allow, o.options().Allow)
}

// options returns s's options, which must not be changed; never nil.
func (s Spec) options() *Options {
	if s.Options == nil {
		return &defaults
	}
	return s.Options
}

// quote quotes text for an error message, shortened where it is long.
func quote(text string) string {
	const most = 160
	if len(text) > most {
		return fmt.Sprintf("%q...", text[:most])
	}
	return fmt.Sprintf("%q", text)
}
