package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// specs returns the listeners of flags and configuration file, in that order. The
// error joins one for each spec that is wrong.
func specs(binds []string, config string) ([]spec.Spec, error) {
	all := make([]spec.Spec, 0, len(binds))
	var errs []error
	where := make(map[string]string, len(binds))
	add := func(text, from string) {
		spec, err := spec.Parse(text)
		first, twice := where[spec.Name]
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", from, err))
		case twice && first == from:
			errs = append(errs, fmt.Errorf("%s: the name %q is given twice", from, spec.Name))
		case twice:
			errs = append(errs, fmt.Errorf("%s: the name %q is given twice, first in %s", from, spec.Name, first))
		default:
			where[spec.Name] = from
			all = append(all, spec)
		}
	}
	for _, text := range binds {
		add(text, "--bind")
	}
	if config != "" {
		if err := readConfig(config, add); err != nil {
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}

// readConfig calls add with each spec of a configuration file and its place.
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

// openConfig opens a configuration file; the caller must close it. It refuses a pipe or a
// device, without waiting for it: a reload or a restart would find nothing there.
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
