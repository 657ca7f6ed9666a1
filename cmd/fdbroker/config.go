//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// readConfig calls add with each spec of a configuration file and where it stands.
func readConfig(path string, add func(text, from string)) error {
	f, err := openConfig(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	n := 1
	for ; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text != "" && !strings.HasPrefix(text, "#") {
			add(text, fmt.Sprintf("%s:%d", path, n))
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("%s:%d: the line has more than %d bytes: give each spec a line of its own", path, n, bufio.MaxScanTokenSize-1)
	case err != nil:
		return fmt.Errorf("--config: %w", err)
	}
	return nil
}

// openConfig opens a configuration file; the caller must close it. What is no file is
// refused, and is not waited for: a pipe would have nothing to read again at a reload, nor
// when the broker is started again.
func openConfig(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = fmt.Errorf("%s is a directory, and has to be a file", path)
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is no regular file: specs are read again at each reload and restart, for which a pipe or a device has nothing; write them to a file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
