package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Errors to test for. Each error of this package that has data is, in the sense of
// [errors.Is], one of these, on both sides of the socket.
var (
	ErrUnknownName   = errors.New("no listener has that name")
	ErrDenied        = errors.New("not allowed")
	ErrConflict      = errors.New("held with O_NONBLOCK the other way")
	ErrFull          = errors.New("no free place")
	ErrNameInUse     = errors.New("name is bound already")
	ErrBindFailed    = errors.New("cannot bind")
	ErrLimitReached  = errors.New("limit reached")
	ErrReloadFailed  = errors.New("configuration not loaded")
	ErrUpgradeFailed = errors.New("not upgraded")
	ErrReplaced      = errors.New("replaced by a newer deploy")
	ErrMalformed     = errors.New("malformed message")
)

// remote is an error that travels.
type remote interface {
	error
	wireName() string
}

// newError makes the empty error for a name on the wire.
func newError(name string) remote {
	for _, e := range []remote{
		new(UnknownNameError), new(DeniedError), new(ConflictError), new(FullError), new(NameInUseError),
		new(BindFailedError), new(ReloadFailedError), new(UpgradeFailedError), new(ReplacedError), new(LimitError), new(MalformedError), new(InvalidParameterError),
		new(MethodNotFoundError), new(InterfaceNotFoundError), new(PermissionDeniedError), new(ExpectedMoreError),
		new(FailedError), new(PendingError), new(ExitedError),
	} {
		if e.wireName() == name {
			return e
		}
	}
	return nil
}

func decodeError(name string, p json.RawMessage) error {
	if e := newError(name); e != nil && DecodeParameters(p, e) == nil {
		return e
	}
	return &RemoteError{Name: name, Parameters: p}
}

func wireError(err error) remote {
	if w, ok := errors.AsType[remote](err); ok {
		return w
	}
	return &FailedError{Message: err.Error()}
}

// MaxNamesInError is how many names an [UnknownNameError] of a broker has at most.
const MaxNamesInError = 100

// UnknownNameError says that no listener is called Name, or that the caller may not get it: a caller without privilege
// is not told which. If UID is set, it is the caller's, and the error is [ErrDenied] too.
type UnknownNameError struct {
	Name  string   `json:"name"`
	Names []string `json:"names,omitempty"` // that the caller may get: the first [MaxNamesInError] in order
	UID   uint32   `json:"uid,omitempty"`   // 0: the caller may get every listener
}

func (e *UnknownNameError) wireName() string { return InterfaceName + ".UnknownName" }

func (e *UnknownNameError) Is(target error) bool {
	return target == ErrUnknownName || target == ErrDenied && e.UID != 0
}

func (e *UnknownNameError) Error() string {
	const most = 10
	n, text := len(e.Names), fmt.Sprintf("no listener is called %q", e.Name)
	if e.UID != 0 {
		text += fmt.Sprintf(", or uid %d may not get it", e.UID)
	}
	if n > 0 {
		text += "; there are: " + strings.Join(e.Names[:min(n, most)], ", ")
	}
	switch {
	case n == MaxNamesInError: // there may be others
		text += fmt.Sprintf(" and at least %d more", n-most)
	case n > most:
		text += fmt.Sprintf(" and %d more", n-most)
	}
	return text
}

// PendingError says that Name is not bound yet, because the broker waits for the workers of
// an earlier broker to hand its socket back.
type PendingError struct {
	Name string `json:"name"`
}

func (e *PendingError) wireName() string     { return InterfaceName + ".Pending" }
func (e *PendingError) Is(target error) bool { return target == ErrUnknownName }

func (e *PendingError) Error() string {
	return fmt.Sprintf("%q is not bound yet: the broker waits for workers of the previous broker to give it back; try again in a few seconds", e.Name)
}

// DeniedError says that UID may not get Name, and which users may. Only earlier brokers send it: see
// [UnknownNameError].
type DeniedError struct {
	Name  string   `json:"name"`
	UID   uint32   `json:"uid"`
	Allow []string `json:"allow"`
}

func (e *DeniedError) wireName() string     { return InterfaceName + ".Denied" }
func (e *DeniedError) Is(target error) bool { return target == ErrDenied }

func (e *DeniedError) Error() string {
	return fmt.Sprintf("uid %d is not allowed to get %q; allowed: %s", e.UID, e.Name, strings.Join(e.Allow, ", "))
}

// ConflictError says that Holders need Name's socket as Blocking says, and that the caller needs the opposite. Unseen
// processes may need it, which the broker cannot follow.
type ConflictError struct {
	Name     string   `json:"name"`
	Blocking bool     `json:"blocking"`
	Holders  []Holder `json:"holders"`
	Unseen   int      `json:"unseen,omitempty"`
}

func (e *ConflictError) wireName() string     { return InterfaceName + ".Conflict" }
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

func (e *ConflictError) Error() string {
	is, need := "non-blocking", "blocking"
	if e.Blocking {
		is, need = need, is
	}
	if e.Unseen > 0 && len(e.Holders) == 0 {
		return fmt.Sprintf("%q is %s, and O_NONBLOCK is shared: processes in another pid namespace, which the broker cannot follow, "+
			"may use it so (unseen: %d); stop them, unbind %q and bind it again, or give the %s workers a listener of their own",
			e.Name, is, e.Unseen, e.Name, need)
	}
	return fmt.Sprintf("%q is held %s by %s, and O_NONBLOCK is shared: stop them first, or give the %s workers a listener of their own",
		e.Name, is, holders(e.Holders), need)
}

// FullError says that Name has Max holders already.
type FullError struct {
	Name    string   `json:"name"`
	Max     int      `json:"max"`
	Holders []Holder `json:"holders"`
}

func (e *FullError) wireName() string     { return InterfaceName + ".Full" }
func (e *FullError) Is(target error) bool { return target == ErrFull }

func (e *FullError) Error() string {
	return fmt.Sprintf("%q has no free place: max=%d, held by %s", e.Name, e.Max, holders(e.Holders))
}

func holders(hs []Holder) string {
	if len(hs) == 0 {
		return "others"
	}
	const most = 4
	var texts []string
	for _, h := range hs[:min(len(hs), most)] {
		switch {
		case h.PID == 0:
			texts = append(texts, fmt.Sprintf("a process of uid %d in another namespace", h.UID))
		case h.Command == "":
			texts = append(texts, fmt.Sprintf("pid %d", h.PID))
		default:
			texts = append(texts, fmt.Sprintf("pid %d (%s)", h.PID, Printable(h.Command)))
		}
	}
	text := strings.Join(texts, ", ")
	if more := len(hs) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// NameInUseError says that Name is bound already, with another spec: Spec.
type NameInUseError struct {
	Name string `json:"name"`
	Spec string `json:"spec"`
}

func (e *NameInUseError) wireName() string     { return InterfaceName + ".NameInUse" }
func (e *NameInUseError) Is(target error) bool { return target == ErrNameInUse }

func (e *NameInUseError) Error() string {
	return fmt.Sprintf("%q is bound already, as %s; unbind it first", e.Name, e.Spec)
}

// BindFailedError has one failure for each spec that could not be bound.
type BindFailedError struct {
	Failures []BindFailure `json:"failures"`
}

// BindFailure says why one spec could not be bound. Message is a whole line.
type BindFailure struct {
	Spec      string    `json:"spec"`
	Message   string    `json:"message"`
	Errno     int       `json:"errno,omitempty"`
	Processes []Process `json:"processes,omitempty"` // seen to use the address
}

// Process is a process seen to use an address.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
}

func (e *BindFailedError) wireName() string     { return InterfaceName + ".BindFailed" }
func (e *BindFailedError) Is(target error) bool { return target == ErrBindFailed }

// Error has a line for each failure.
func (e *BindFailedError) Error() string {
	lines := make([]string, len(e.Failures))
	for i, f := range e.Failures {
		lines[i] = f.Message
	}
	return strings.Join(lines, "\n")
}

// UpgradeFailedError says in lines why the program was not upgraded.
type UpgradeFailedError struct {
	Reasons []string `json:"reasons"`
}

func (e *UpgradeFailedError) wireName() string     { return InterfaceName + ".UpgradeFailed" }
func (e *UpgradeFailedError) Is(target error) bool { return target == ErrUpgradeFailed }
func (e *UpgradeFailedError) Error() string        { return strings.Join(e.Reasons, "\n") }

// ReloadFailedError says in lines why the configuration was not loaded.
type ReloadFailedError struct {
	Reasons []string `json:"reasons"`
}

func (e *ReloadFailedError) wireName() string     { return InterfaceName + ".ReloadFailed" }
func (e *ReloadFailedError) Is(target error) bool { return target == ErrReloadFailed }
func (e *ReloadFailedError) Error() string        { return strings.Join(e.Reasons, "\n") }

// ReplacedError says that the holders of a generation were asked to leave Name, so that
// generation does not get it any more.
type ReplacedError struct {
	Name       string `json:"name"`
	Generation int64  `json:"generation"`
}

func (e *ReplacedError) wireName() string     { return InterfaceName + ".Replaced" }
func (e *ReplacedError) Is(target error) bool { return target == ErrReplaced }

func (e *ReplacedError) Error() string {
	return fmt.Sprintf("a newer deploy has replaced this one (generation %d) at %q", e.Generation, e.Name)
}

// LimitError says that the broker's limit of that name is reached.
type LimitError struct {
	Limit string `json:"limit"`
	Max   int    `json:"max"`
}

func (e *LimitError) wireName() string     { return InterfaceName + ".LimitReached" }
func (e *LimitError) Is(target error) bool { return target == ErrLimitReached }

func (e *LimitError) Error() string {
	return fmt.Sprintf("the broker's limit of %s is reached: %d", e.Limit, e.Max)
}

// ExitedError says that the process that made the connection has ended, and another one uses the connection.
type ExitedError struct {
	PID int `json:"pid"`
}

func (e *ExitedError) wireName() string { return InterfaceName + ".Exited" }

func (e *ExitedError) Error() string {
	return fmt.Sprintf("pid %d, which made this connection, has exited: connect again", e.PID)
}

// MalformedError says why a message is not a call or a reply.
type MalformedError struct {
	Reason string `json:"reason"`
}

func (e *MalformedError) wireName() string     { return InterfaceName + ".Malformed" }
func (e *MalformedError) Is(target error) bool { return target == ErrMalformed }
func (e *MalformedError) Error() string        { return "malformed message: " + e.Reason }

// FailedError says how the broker itself has failed.
type FailedError struct {
	Message string `json:"message"`
}

func (e *FailedError) wireName() string { return InterfaceName + ".Failed" }
func (e *FailedError) Error() string    { return "the broker failed: " + e.Message }

// RemoteError is an error of a peer for which this package has no type.
type RemoteError struct {
	Name       string
	Parameters json.RawMessage
}

func (e *RemoteError) wireName() string { return e.Name }

// MarshalJSON returns the parameters as they came.
func (e *RemoteError) MarshalJSON() ([]byte, error) {
	if len(e.Parameters) == 0 {
		return []byte("{}"), nil
	}
	return e.Parameters, nil
}

func (e *RemoteError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the broker answers %s %s", Printable(e.Name), Printable(string(e.Parameters))))
}

// Printable returns s without characters that could harm a terminal, for a text that another user chose.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// IsReply reports whether err is a broker's answer; then its connection can still be used.
func IsReply(err error) bool {
	r, _ := errors.AsType[remote](err)
	switch r.(type) {
	case nil, *MalformedError, *LimitError:
		return false
	}
	return true
}

// InvalidParameterError is org.varlink.service.InvalidParameter.
type InvalidParameterError struct {
	Parameter string `json:"parameter"`
}

func (e *InvalidParameterError) wireName() string { return ServiceInterfaceName + ".InvalidParameter" }
func (e *InvalidParameterError) Error() string    { return "invalid parameter: " + e.Parameter }

// MethodNotFoundError is org.varlink.service.MethodNotFound.
type MethodNotFoundError struct {
	Method string `json:"method"`
}

func (e *MethodNotFoundError) wireName() string { return ServiceInterfaceName + ".MethodNotFound" }

func (e *MethodNotFoundError) Error() string {
	return fmt.Sprintf("the broker has no method %s; it may be older than this client", e.Method)
}

// InterfaceNotFoundError is org.varlink.service.InterfaceNotFound.
type InterfaceNotFoundError struct {
	Interface string `json:"interface"`
}

func (e *InterfaceNotFoundError) wireName() string {
	return ServiceInterfaceName + ".InterfaceNotFound"
}
func (e *InterfaceNotFoundError) Error() string { return "there is no interface " + e.Interface }

// PermissionDeniedError is org.varlink.service.PermissionDenied: only root and the broker's
// own user may call the method. It is [ErrDenied] too.
type PermissionDeniedError struct{}

func (e *PermissionDeniedError) wireName() string     { return ServiceInterfaceName + ".PermissionDenied" }
func (e *PermissionDeniedError) Is(target error) bool { return target == ErrDenied }

func (e *PermissionDeniedError) Error() string {
	return "permission denied: only root and the user that the broker runs as may do this"
}

// ExpectedMoreError is org.varlink.service.ExpectedMore.
type ExpectedMoreError struct{}

func (e *ExpectedMoreError) wireName() string { return ServiceInterfaceName + ".ExpectedMore" }
func (e *ExpectedMoreError) Error() string    { return `the method must be called with "more"` }
