//go:build linux

package socket

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// AdoptDonated takes fd, a bound socket that somebody else has opened and may still
// be using, and returns it as that of a listener called name; the caller must close
// it. The error is one line.
//
// The options are as they stand in a spec behind the address, such as
// "allow=any,max=2". Where they do not say how long the queue is and whether the
// socket blocks, that stays as it is, and is the listener's own setting from now on.
// For the rest it is like [Adopt].
func AdoptDonated(name, options string, fd *scmrights.FD) (*Socket, error) {
	sock, err := adoptDonated(name, options, fd)
	if err != nil {
		_ = fd.Close() // err is what to tell
		return nil, fmt.Errorf("%s: %w", quote(name), err)
	}
	sock.adopted = true
	return sock, nil
}

func adoptDonated(name, options string, fd *scmrights.FD) (*Socket, error) {
	if err := checkDonation(name, options); err != nil {
		return nil, err
	}
	s := Spec{Name: name}
	err := control(fd, func(num int) error {
		is, err := identify(num)
		if err != nil {
			return err
		}
		s.Network, s.Address = is.network().name, is.address
		s.Options, err = is.donatedOptions(options, num)
		return err
	})
	if err == nil {
		err = s.checkTogether()
	}
	if err == nil {
		err = s.checkWritable()
	}
	if err != nil {
		return nil, err
	}
	return adopt(s, fd, nil)
}

// checkWritable returns an error where what s says, as a text, is something else: of an
// address with a comma the rest would be options. A broker that goes on with the socket
// has but the text.
func (s Spec) checkWritable() error {
	if is, err := ParseSpec(s.String()); err != nil || !is.Equal(s) {
		return fmt.Errorf("its address, %q, cannot be written in a spec", s.Address)
	}
	return nil
}

// donatedOptions returns the options that a text says, and for the rest those that
// the socket has.
func (is identity) donatedOptions(text string, fd int) (*Options, error) {
	o, said := new(Options), map[string]bool{}
	if text != "" {
		var err error
		if o, err = parseOptions(is.network(), text); err != nil {
			return nil, err
		}
		for word := range strings.SplitSeq(text, ",") {
			option, _, _ := strings.Cut(word, "=")
			said[option] = true
		}
	}
	if n := is.backlog(fd); !said["backlog"] && n > 0 && n < somaxconn() {
		o.Backlog = n
	}
	if !said["blocking"] {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
		o.Blocking = flags&unix.O_NONBLOCK == 0
	}
	return o, nil
}

// CheckDonation returns an error where no descriptor could become a listener of that
// name with those options: see [AdoptAny] and, without any, [AdoptDonated].
func CheckDonation(name, options string, any bool) error {
	if err := checkDonation(name, options); err != nil || options == "" {
		return err
	}
	nets := []*network{anyNetwork()}
	if !any {
		nets = nil
		for i := range networks {
			nets = append(nets, &networks[i])
		}
	}
	var err error
	for _, n := range nets {
		if _, err = parseOptions(n, options); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s: %w", quote(name), err)
}

func checkDonation(name, options string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return checkText(options)
}
