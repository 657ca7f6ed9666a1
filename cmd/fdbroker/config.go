package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// A configuration is what the command line and the configuration file say.
type configuration struct {
	listeners []spec.Spec
	doubt     *server.Doubt // about the file; nil without one
}

// configure returns the listeners of flags and configuration file, in that order. The error joins one for each spec that
// is wrong.
func configure(binds []string, config string) (configuration, error) {
	c := collection{where: make(map[string]string, len(binds))}
	for _, text := range binds {
		c.add(text, "--bind")
	}
	if config == "" {
		return configuration{c.listeners, nil}, errors.Join(c.errs...)
	}
	text, err := readConfig(config)
	if err != nil {
		return configuration{}, errors.Join(append(c.errs, fmt.Errorf("--config: %w", err))...)
	}
	doubt := c.addFile(config, text)
	return configuration{c.listeners, &doubt}, errors.Join(c.errs...)
}

// A collection is listeners and errors, as they are found.
type collection struct {
	listeners []spec.Spec
	errs      []error
	where     map[string]string // each name was found
}

// add adds the listener of a spec.
func (c *collection) add(text, from string) {
	spec, err := spec.Parse(text)
	first, twice := c.where[spec.Name]
	switch {
	case err != nil:
		err = fmt.Errorf("%s: %w", from, err)
	case twice && first == from:
		err = fmt.Errorf("%s: the name %q is given twice", from, spec.Name)
	case twice && first == "--bind":
		err = fmt.Errorf("%s: the name %q is already given with --bind", from, spec.Name)
	case twice:
		err = fmt.Errorf("%s: the name %q is given twice, first in %s", from, spec.Name, first)
	default:
		c.where[spec.Name] = from
		c.listeners = append(c.listeners, spec)
		return
	}
	c.errs = append(c.errs, err)
}

// hasComment reports whether a comment follows something else on the line.
func hasComment(line string) bool {
	return strings.Contains(line, " #") || strings.Contains(line, "\t#")
}

// addFile adds the specs of a configuration file, one a line.
func (c *collection) addFile(path string, text []byte) (doubt server.Doubt) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		c.errs = append(c.errs, fmt.Errorf("%s is UTF-16: save it as UTF-8", path))
		return doubt
	}
	if before, _, ok := bytes.Cut(text, []byte{0}); ok {
		line := 1 + bytes.Count(before, []byte("\n"))
		c.errs = append(c.errs, fmt.Errorf("%s:%d: there is a NUL byte: the file is damaged", path, line))
		return doubt
	}
	body := strings.TrimPrefix(string(text), "\ufeff") // the byte order mark that some editors write
	doubt = server.Doubt{Empty: true, Unended: body != "" && !strings.HasSuffix(body, "\n")}
	n := 0
	for line := range strings.Lines(body) {
		n++
		line = strings.TrimSpace(line)
		doubt.Last = ""
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		doubt.Empty = false
		doubt.Last, _, _ = strings.Cut(line, "=")
		from := fmt.Sprintf("%s:%d", path, n)
		switch {
		case len(line) > maxLine:
			c.errs = append(c.errs, fmt.Errorf("%s: the line has more than %d bytes: give each spec a line of its own", from, maxLine))
		case hasComment(line):
			c.errs = append(c.errs, fmt.Errorf("%s: spec %s: a comment must be on a line of its own", from, spec.Quote(line)))
		default:
			c.add(line, from)
		}
	}
	return doubt
}

const (
	maxLine   = 1<<16 - 1             // bytes of a spec
	maxConfig = 16 << 20              // bytes of a configuration file
	readTries = 10                    // to read a file that is not being written
	readPause = 50 * time.Millisecond // between two
)

// readConfig reads a configuration file that nobody is writing at the same time.
func readConfig(path string) (text []byte, err error) {
	for range readTries {
		var whole bool
		if text, whole, err = readOnce(path); err != nil || whole {
			return text, err
		}
		time.Sleep(readPause)
	}
	return nil, fmt.Errorf("%s changes while it is read; try again when it is written", path)
}

// readOnce reads a configuration file, and reports whether that is the whole file.
func readOnce(path string) (text []byte, whole bool, err error) {
	f, err := openConfig(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	return readStable(f)
}

// readStable reads a file, and reports whether it stayed the same meanwhile.
func readStable(f fs.File) (text []byte, same bool, err error) {
	before, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if text, err = io.ReadAll(io.LimitReader(f, maxConfig+1)); err != nil {
		return nil, false, err
	}
	if len(text) > maxConfig {
		return nil, false, fmt.Errorf("%s has more than %d bytes", before.Name(), maxConfig)
	}
	after, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	same = before.Size() == after.Size() && before.ModTime().Equal(after.ModTime())
	return text, same && int64(len(text)) >= after.Size(), nil
}

// openConfig opens a configuration file; the caller must close it. It refuses a pipe or a device, without waiting for
// it: a reload or a restart would find nothing there.
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
		err = fmt.Errorf("%s is not a regular file; the configuration is read again on reload and restart, so a pipe or device cannot be used", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
