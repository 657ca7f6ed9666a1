package spec

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	maxPath = 107 // limits a Unix address, with the '@' of an abstract one: sun_path has a byte more, the NUL (unix(7))
	maxHost = 253 // the longest host name (RFC 1035)
)

// ParseAddress parses [NETWORK://]ADDRESS and returns the normalised address.
func ParseAddress(text string) (*Network, string, error) {
	word, address, found := strings.Cut(text, "://")
	if !found {
		word, address = "tcp", text
		if err := checkSlashes(text); err != nil {
			return nil, "", fmt.Errorf("address %q: %w", text, err)
		}
	}
	n := NetworkOf(word)
	if n == nil {
		return nil, "", fmt.Errorf("address %q: unknown network %q; use %s", text, word, NetworkNames(All))
	}
	var err error
	if n.In(Unix) {
		address, err = normalUnix(address)
	} else {
		address, err = normalInet(n, address)
	}
	if err != nil {
		return nil, "", fmt.Errorf("address %q: %w", text, err)
	}
	return n, address, nil
}

// checkSlashes returns an error if text is an address behind a network and a colon. It would be the port of a host that
// is called like the network; such a host can be written behind "tcp://".
func checkSlashes(text string) error {
	word, rest, found := strings.Cut(text, ":")
	n := NetworkOf(strings.ToLower(strings.TrimRight(word, "/")))
	if !found || n == nil {
		return nil
	}
	if n.In(Unix) {
		return fmt.Errorf("a Unix socket's address is written %s://%s", n.Name, rest)
	}
	rest = strings.TrimLeft(rest, "/")
	if !strings.Contains(rest, ":") {
		rest = ":" + rest
	}
	return fmt.Errorf("the network is written %s://, as in %s://%s", n.Name, n.Name, rest)
}

// normalInet returns HOST:PORT with the port as a number and an IP address in its shortest form.
func normalInet(n *Network, address string) (string, error) {
	host, port, err := splitHostPort(address)
	if err != nil {
		return "", err
	}
	number, err := parsePort(n, port)
	if err != nil {
		return "", err
	}
	if host, err = normalHost(n, host); err != nil {
		return "", err
	}
	return net.JoinHostPort(host, number), nil
}

func splitHostPort(address string) (host, port string, err error) {
	const allowed = "an address is PORT, :PORT, HOST:PORT, [IPV6]:PORT, or NETWORK://ADDRESS"
	switch {
	case address == "":
		return "", "", errors.New("it is empty; " + allowed)
	case isDigits(address):
		return "", address, nil
	case address[0] == '/' || address[0] == '@' || address[0] == '.':
		return "", "", errors.New("a Unix socket's address is written unix://" + address)
	}
	host, port, err = net.SplitHostPort(address)
	if err != nil {
		return "", "", errors.New(allowed)
	}
	if host == "" && address[0] == '[' {
		return "", "", errors.New("there is nothing between the brackets; " + allowed)
	}
	return host, port, nil
}

func parsePort(n *Network, port string) (string, error) {
	if isDigits(port) {
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return "", fmt.Errorf("port %s is not from 0 to 65535", port)
		}
		return strconv.FormatUint(number, 10), nil
	}
	if port == "" || !IsWord(port) {
		return "", fmt.Errorf("port %q is neither a number nor a service's name", port)
	}
	number, err := net.LookupPort(n.Name, port)
	if err != nil {
		return "", fmt.Errorf("port %q is neither a number from 0 to 65535 nor a service that this machine knows", port)
	}
	return strconv.Itoa(number), nil
}

// normalHost checks that host is an address or can be a host's name. An empty host means all addresses of this machine.
func normalHost(n *Network, host string) (string, error) {
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "":
		return "", nil
	case err != nil && (len(host) > maxHost || !IsWord(host)):
		const advice = "leave it empty for all addresses"
		return "", fmt.Errorf("host %s is neither an IP address nor a host's name; %s", Quote(host), advice)
	case err != nil:
		return host, nil // a name
	}
	if zone := ip.Zone(); zone != "" {
		if _, err := parseInterface(zone); err != nil {
			return "", fmt.Errorf("zone %w", err)
		}
	}
	ip = ip.Unmap()
	if ip.Is6() && n.In(Only4) || ip.Is4() && n.In(Only6) {
		return "", fmt.Errorf("host %s is not one of %s", ip, n.Name)
	}
	return ip.String(), nil
}

// normalUnix returns an absolute path, cleaned as by [filepath.Clean], or an abstract name.
func normalUnix(address string) (string, error) {
	if address == "" || address == "@" {
		return "", errors.New("it is empty; a Unix address is /PATH, or @NAME for an abstract one")
	}
	if address[0] == '@' {
		return address, CheckPath(address)
	}
	path, err := filepath.Abs(address)
	if err != nil {
		return "", fmt.Errorf("a relative path needs a working directory: %w", err)
	}
	if err := CheckText(path); err != nil {
		return "", fmt.Errorf("working directory: %w", err)
	}
	if strings.Contains(path, ",") {
		return "", fmt.Errorf("path %q has a comma, which a spec cannot hold", path)
	}
	return path, CheckPath(path)
}

// CheckPath returns an error if a Unix address is longer than the kernel allows.
func CheckPath(path string) error {
	if len(path) > maxPath {
		return fmt.Errorf("a Unix address has at most %d bytes, this one has %d", maxPath, len(path))
	}
	return nil
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// IsWord reports whether s has only characters of host and service names, and begins with a letter or digit.
func IsWord(s string) bool { return badByte(s) < 0 }

// badByte returns the index of the first byte that keeps s from being a word, or -1.
func badByte(s string) int {
	for i, c := range []byte(s) {
		isAlnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !isAlnum && (i == 0 || c != '-' && c != '.' && c != '_') {
			return i
		}
	}
	return -1
}
