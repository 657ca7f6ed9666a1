package protocol

import (
	"errors"
	"path"
	"strconv"
)

const (
	// SocketEnv names the control socket for clients and the broker.
	SocketEnv = "FDBROKER_SOCKET"

	// SystemSocket is the control socket of a broker that root has started.
	SystemSocket = "/run/fdbroker/control"
)

// ListenPath returns the default path of a broker's control socket, for that uid: $FDBROKER_SOCKET, else
// /run/fdbroker/control for root, else $XDG_RUNTIME_DIR/fdbroker/control.
func ListenPath(uid int, getenv func(string) string) (string, error) {
	if p := getenv(SocketEnv); p != "" {
		return p, nil
	}
	if uid == 0 {
		return SystemSocket, nil
	}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		return path.Join(dir, "fdbroker", "control"), nil
	}
	return "", errors.New("no place for the control socket: neither FDBROKER_SOCKET nor XDG_RUNTIME_DIR is set; name one with --socket")
}

// DialPaths returns the paths where a client of that uid looks for a control socket, in that
// order: the default path of a broker of the same user, then, for users other than root,
// /run/fdbroker/control. If $FDBROKER_SOCKET is set, it is the only path.
func DialPaths(uid int, getenv func(string) string) []string {
	if p := getenv(SocketEnv); p != "" {
		return []string{p}
	}
	own, err := ListenPath(uid, getenv)
	if err != nil || own == SystemSocket {
		return []string{SystemSocket}
	}
	return []string{own, SystemSocket}
}

// GenerationEnv is the environment variable that says which deploy a process belongs to; see [GetParameters].
const GenerationEnv = "FDBROKER_GENERATION"

// GenerationOf returns the generation that the environment has, or 0.
func GenerationOf(getenv func(string) string) int64 {
	n, err := strconv.ParseInt(getenv(GenerationEnv), 10, 64)
	if err != nil {
		return 0
	}
	return max(n, 0)
}
