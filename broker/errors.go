package broker

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fdbroker/fdbroker/protocol"
)

// What a caller branches on, with [errors.Is]. Those that have data are types of
// the package protocol too, such as *protocol.ConflictError.
var (
	// ErrUnknownName says that no listener has that name.
	ErrUnknownName = protocol.ErrUnknownName
	// ErrDenied says that the listener is not for this user, or the method is not.
	ErrDenied = protocol.ErrDenied
	// ErrConflict says that others hold the socket with O_NONBLOCK the other way.
	ErrConflict = protocol.ErrConflict
	// ErrFull says that the listener has as many holders as it may have.
	ErrFull = protocol.ErrFull
	// ErrNameInUse says that the name is bound already, with another spec.
	ErrNameInUse = protocol.ErrNameInUse
	// ErrBindFailed says that an address cannot be bound.
	ErrBindFailed = protocol.ErrBindFailed
	// ErrLimitReached says that one of the broker's limits is reached.
	ErrLimitReached = protocol.ErrLimitReached

	// ErrNoBroker says that no broker answers at the control socket. The error is
	// a *[NoBrokerError].
	ErrNoBroker = errors.New("no broker answers")
	// ErrLost says that the connection to the broker ended before its answer came.
	ErrLost = errors.New("the broker has closed the connection")
)

// NoBrokerError says where a broker was looked for, and what was met there.
type NoBrokerError struct {
	Paths []string // of control sockets, as they were tried
	Errs  []error  // for each of Paths
}

// Is reports whether target is [ErrNoBroker].
func (e *NoBrokerError) Is(target error) bool { return target == ErrNoBroker }

// Unwrap returns what was met at each path.
func (e *NoBrokerError) Unwrap() []error { return e.Errs }

func (e *NoBrokerError) Error() string {
	tried := make([]string, len(e.Paths))
	for i, p := range e.Paths {
		tried[i] = fmt.Sprintf("%s (%s)", p, causeText(e.Errs[i]))
	}
	return "no broker answers at " + strings.Join(tried, " or ")
}

// causeText is the text of the innermost error: the path stands before it already.
func causeText(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}
