package spec

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

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
