//go:build linux

package socket

import "fmt"

// maxName is the longest name in bytes: systemd's limit for a FileDescriptorName.
const maxName = 255

// CheckName returns an error that says what is wrong with name, or nil where it
// can name a listener: a letter or digit, then up to 254 letters, digits, '.',
// '_' and '-'. Three words are systemd's (sd_listen_fds_with_names(3)) and refused.
func CheckName(name string) error {
	const allowed = "a name is a letter or digit, then up to 254 letters, digits, '.', '_' or '-'"
	switch {
	case name == "":
		return fmt.Errorf("the name is empty; %s", allowed)
	case len(name) > maxName:
		return fmt.Errorf("name %s has %d bytes; %s", quote(name), len(name), allowed)
	case name == "unknown" || name == "stored" || name == "connection":
		return fmt.Errorf("name %q has a meaning to systemd; choose another", name)
	}
	for i := range len(name) {
		if !isAlnum(name[i]) && (i == 0 || name[i] != '.' && name[i] != '_' && name[i] != '-') {
			return fmt.Errorf("name %q: %q is not allowed there; %s", name, name[i:i+1], allowed)
		}
	}
	return nil
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
