//go:build linux

package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
)

// BindError says why a socket could not be opened. [errors.Is] finds the
// kernel's error number in it where there was one.
type BindError struct {
	// Spec is the canonical text of the spec.
	Spec string
	// Holders are the processes that have the address, where it is in use and they
	// can be seen: at most five, by pid.
	Holders []Process
	// Err is what went wrong.
	Err error

	reason string
}

// Error returns one line that says what to do where that is known.
func (e *BindError) Error() string {
	head, _, _ := strings.Cut(e.Spec, ",") // an address has no comma
	return "cannot bind " + head + ": " + e.reason
}

// Unwrap returns e.Err.
func (e *BindError) Unwrap() error { return e.Err }

// A problem is an error whose text is written for the operator.
type problem struct {
	text    string
	err     error
	holders []Process
}

func (p *problem) Error() string { return p.text }
func (p *problem) Unwrap() error { return p.err }

func newBindError(s Spec, err error) *BindError {
	be := &BindError{Spec: s.String(), Err: err, reason: reason(err)}
	if p, ok := errors.AsType[*problem](err); ok {
		be.Err, be.Holders = p.err, p.holders
		be.reason = p.text
		return be
	}
	if hint := hintOf(err); hint != "" {
		be.reason += " (" + hint + ")"
	}
	return be
}

// hintOf says what helps against errors that can come from anywhere.
func hintOf(err error) string {
	switch {
	case errors.Is(err, syscall.EMFILE):
		return "raise the limit of open files, ulimit -n"
	case errors.Is(err, syscall.ENFILE):
		return "raise fs.file-max"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return optionHint(err)
	case errors.Is(err, syscall.ENODEV):
		return "there is no interface of that name"
	}
	return ""
}

// optionHint says what privilege the option of err needs.
func optionHint(err error) string {
	oe, ok := errors.AsType[*optionError](err)
	if !ok {
		return ""
	}
	switch oe.option {
	case "mark", "transparent":
		return "needs CAP_NET_ADMIN"
	case "device":
		return "needs CAP_NET_RAW"
	case "user", "group":
		return "needs CAP_CHOWN"
	}
	return ""
}

// reason returns the text of err without the name of the system call, which
// tells an operator nothing.
func reason(err error) string {
	if _, ok := errors.AsType[*optionError](err); ok {
		return err.Error()
	}
	if pe, ok := errors.AsType[*problem](err); ok {
		return pe.text
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.Err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}

// deniedTo says who was denied something, as an operator needs to know.
func deniedTo(what string) string {
	return fmt.Sprintf("permission denied (uid %d may not %s)", os.Geteuid(), what)
}
