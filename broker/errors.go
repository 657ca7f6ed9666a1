package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/protocol"
)

// Errors to test for with [errors.Is]. Those with data are types of the package protocol
// too, such as *protocol.ConflictError.
var (
	ErrUnknownName   = protocol.ErrUnknownName   // no listener has that name
	ErrDenied        = protocol.ErrDenied        // this user may not have the listener, or call the method
	ErrConflict      = protocol.ErrConflict      // others hold the socket with the opposite O_NONBLOCK
	ErrFull          = protocol.ErrFull          // the listener has as many holders as it may have
	ErrNameInUse     = protocol.ErrNameInUse     // the name is bound already, with another spec
	ErrBindFailed    = protocol.ErrBindFailed    // an address cannot be bound
	ErrReloadFailed  = protocol.ErrReloadFailed  // the configuration has errors, or there is none
	ErrReplaced      = protocol.ErrReplaced      // a newer deploy has replaced this process's
	ErrUpgradeFailed = protocol.ErrUpgradeFailed // the new program refuses the broker's arguments, or there is none
	ErrLimitReached  = protocol.ErrLimitReached  // one of the broker's limits is reached

	// ErrNoBroker says that no broker answers at the control socket. The error is a
	// *[NoBrokerError]; if the context ended first it is the context's error too.
	ErrNoBroker = errors.New("no broker answers")
	// ErrLost says that the connection to the broker ended before its answer came.
	ErrLost = errors.New("the broker has closed the connection")
	// ErrMalformed says that the answer is invalid: the program that answers is no broker, or
	// a broken one. The descriptors that came with it have been closed.
	ErrMalformed = protocol.ErrMalformed
)

// NoBrokerError has the paths where the client looked for a broker, and their errors.
type NoBrokerError struct {
	Paths []string // of control sockets, in the order of the attempts
	Errs  []error  // for each of Paths
}

// Is reports whether target is [ErrNoBroker].
func (e *NoBrokerError) Is(target error) bool { return target == ErrNoBroker }

// Unwrap returns the error of each path.
func (e *NoBrokerError) Unwrap() []error { return e.Errs }

func (e *NoBrokerError) Error() string {
	tried := make([]string, len(e.Paths))
	for i, p := range e.Paths {
		tried[i] = fmt.Sprintf("%s (%v)", p, cause(e.Errs[i]))
	}
	if !slices.ContainsFunc(e.Errs, func(err error) bool { return !errors.Is(err, fs.ErrPermission) }) {
		return "you may not connect to the broker at " + strings.Join(tried, " or ")
	}
	return "no broker answers at " + strings.Join(tried, " or ")
}

// cause returns err without the call and the path that a [os.PathError] names.
func cause(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}
