// Package spec parses, checks and prints specs: the texts that describe listening sockets,
// NAME=ADDRESS[,OPTION[=VALUE]]...
//
// It may ask the user database, the services database and the resolver. It never opens a socket or a file of its own,
// and knows nothing of sockets that exist. Of the options allow and max, which concern the control protocol, it knows
// only the text.
package spec

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// Spec is one parsed NAME=ADDRESS[,OPTION[=VALUE]]... It is a value: copies may be used concurrently.
type Spec struct {
	Name    string   // of the listener; see [CheckName]
	Network string   // tcp, tcp4, tcp6, udp, udp4, udp6, unix, unixpacket or unixgram, or [Any], which Parse never returns
	Address string   // normalised: HOST:PORT with the port as a number; an absolute path; "@name" for an abstract socket
	Options *Options // never nil after Parse; nil: none. Specs without options share one value: it must not be changed
}

// Parse parses text. Its error is one line that names the spec, the wrong part, and the allowed values.
//
// Parse makes a relative Unix path absolute, looks users and groups up, and turns a port's name into its number. Host
// names are resolved later, by [Spec.Endpoints].
func Parse(text string) (Spec, error) {
	s, err := parse(text)
	if err != nil {
		return Spec{}, fmt.Errorf("spec %s: %w", Quote(text), err)
	}
	return s, nil
}

func parse(text string) (Spec, error) {
	if err := CheckText(text); err != nil {
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
	n, address, err := ParseAddress(address)
	if err != nil {
		return Spec{}, err
	}
	s := Spec{name, n.Name, address, &defaults}
	if found {
		if s.Options, err = ParseOptions(n, options); err != nil {
			return Spec{}, err
		}
	}
	return s, s.Check()
}

// maxName is the longest name in bytes: systemd's limit for a FileDescriptorName.
const maxName = 255

// CheckName returns nil if name can name a listener: a letter or digit, then up to 254 letters, digits, '.', '_' and
// '-'. Three words are systemd's (sd_listen_fds_with_names(3)) and refused.
func CheckName(name string) error {
	const allowed = "a name is a letter or digit, then up to 254 letters, digits, '.', '_' or '-'"
	switch {
	case name == "":
		return fmt.Errorf("the name is empty; %s", allowed)
	case len(name) > maxName:
		return fmt.Errorf("name %s has %d bytes; %s", Quote(name), len(name), allowed)
	case name == "unknown" || name == "stored" || name == "connection":
		return fmt.Errorf("name %q has a meaning to systemd; choose another", name)
	}
	if strings.TrimSpace(name) != name {
		return fmt.Errorf("name %q: \" \" is not allowed there: a spec has no spaces", name)
	}
	if i := badByte(name); i >= 0 {
		return fmt.Errorf("name %q: %q is not allowed there; %s", name, name[i:i+1], allowed)
	}
	return nil
}

// CheckText returns an error if text could not be printed on a line or sent as JSON.
func CheckText(text string) error {
	if !utf8.ValidString(text) {
		return errors.New("it is not valid UTF-8")
	}
	if i := strings.IndexFunc(text, unicode.IsControl); i >= 0 {
		return fmt.Errorf("there is a control character at byte %d", i)
	}
	return nil
}

// Check returns an error if s has options that suit its network but not its address.
func (s Spec) Check() error {
	o := s.Opts()
	if strings.HasPrefix(s.Address, "@") && (o.Mode != nil || o.User != "" || o.Group != "" || o.MkDir != nil) {
		const why = "an abstract socket has no file, so it cannot have the options mode, user, group and mkdir"
		return fmt.Errorf("address %q: %s", s.Address, why)
	}
	if at, err := netip.ParseAddrPort(s.Address); o.V6Only && err == nil && at.Addr().Is4() {
		return fmt.Errorf("option v6only: address %q is an IPv4 one", s.Address)
	}
	return nil
}

// String returns the canonical text of s: parsing it gives an equal Spec.
func (s Spec) String() string {
	var b strings.Builder
	b.WriteString(s.Name + "=")
	if s.Network != "tcp" || checkSlashes(s.Address) != nil {
		b.WriteString(s.Network + "://")
	}
	b.WriteString(s.Address)
	s.Opts().write(&b)
	return b.String()
}

// Equal reports whether s and o mean the same, and the names in allow= have the same ids in both.
func (s Spec) Equal(o Spec) bool {
	return s.String() == o.String() && slices.Equal(s.Opts().Allow, o.Opts().Allow)
}

// Opts returns the options of s, which must not be changed; never nil.
func (s Spec) Opts() *Options {
	if s.Options == nil {
		return &defaults
	}
	return s.Options
}

// Quote quotes text for an error message, and shortens a long one.
func Quote(text string) string {
	const most = 160
	if len(text) > most {
		return fmt.Sprintf("%q...", text[:most])
	}
	return fmt.Sprintf("%q", text)
}

// A Problem is an error whose text is written for the operator.
type Problem struct {
	Text string
	Err  error
}

// Problemf returns a Problem, whose Err is err.
func Problemf(err error, format string, args ...any) *Problem {
	return &Problem{fmt.Sprintf(format, args...), err}
}

func (p *Problem) Error() string { return p.Text }
func (p *Problem) Unwrap() error { return p.Err }

// An OptionError says which option the kernel refused.
type OptionError struct {
	Option string
	Err    error
}

func (e *OptionError) Error() string { return fmt.Sprintf("option %s: %v", e.Option, Reason(e.Err)) }
func (e *OptionError) Unwrap() error { return e.Err }

// Refused returns an [*OptionError] if err, the error of a system call for an option, is not nil.
func Refused(option, call string, err error) error {
	if err == nil {
		return nil
	}
	return &OptionError{option, os.NewSyscallError(call, err)}
}

// Reason returns the text of err without the name of the system call, which tells an operator nothing.
func Reason(err error) string {
	if _, ok := errors.AsType[*OptionError](err); ok {
		return err.Error()
	}
	if p, ok := errors.AsType[*Problem](err); ok {
		return p.Text
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.Err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}

// Denied returns a Problem that says what this user may not do.
func Denied(err error, format string, args ...any) *Problem {
	return Problemf(err, "permission denied (uid %d may not "+format+")", append([]any{os.Geteuid()}, args...)...)
}
