package socket

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// A Donation says which listener a descriptor that another program has made is to become.
type Donation struct {
	Name    string
	Options string // as they stand in a spec behind the address, such as "allow=any,max=2"
	Any     bool   // admit any descriptor; else a socket that is bound and, if its network has connections, listens
}

// Check returns an error if no descriptor could become such a listener.
func (d Donation) Check() error {
	if err := d.checkText(); err != nil {
		return err
	}
	if d.Any {
		_, err := d.parse(spec.AnyNetwork())
		return err
	}
	var err error
	for n := range spec.Networks() {
		if _, err = d.parse(n); err == nil {
			return nil
		}
	}
	return err
}

func (d Donation) checkText() error {
	if err := spec.CheckName(d.Name); err != nil {
		return err
	}
	return spec.CheckText(d.Options)
}

// Spec returns a spec that describes fd, which it borrows, for [Adopt]. If the options do not say how long the queue
// is, whether the socket blocks, and who may use a Unix socket's file, that is as fd has it: another socket of the spec
// is to be like this one.
//
// With Any, the network is [spec.Any] and the address is the kind of fd: "pipe", "memfd", "socket", "file" and the
// like; whether it blocks is always as fd has it.
func (d Donation) Spec(fd *scmrights.FD) (spec.Spec, error) {
	err := d.checkText()
	if err != nil {
		return spec.Spec{}, err
	}
	if d.Any {
		return sockdiag.Ask(fd, d.describeAny)
	}
	s, err := sockdiag.Ask(fd, d.describe)
	if err == nil {
		err = checkWritable(s)
	}
	return s, err
}

func (d Donation) describe(fd int) (s spec.Spec, err error) {
	is, err := sockdiag.Identify(fd)
	if err != nil {
		return s, err
	}
	o, err := d.options(is, fd)
	return spec.Spec{Name: d.Name, Network: is.Network().Name, Address: is.Address, Options: o}, err
}

func (d Donation) describeAny(fd int) (s spec.Spec, err error) {
	o, err := d.parse(spec.AnyNetwork())
	if err != nil {
		return s, err
	}
	kind, kerr := kindOf(fd)
	o.Blocking, err = isBlocking(fd)
	return spec.Spec{Name: d.Name, Network: spec.Any, Address: kind, Options: o}, cmp.Or(kerr, err)
}

// options returns the options of d, and adds those that the socket has.
func (d Donation) options(is sockdiag.Identity, fd int) (*spec.Options, error) {
	o, err := d.parse(is.Network())
	if err != nil {
		return nil, err
	}
	if n := is.Backlog(fd); o.Backlog == 0 && n < somaxconn() {
		o.Backlog = n
	}
	if !strings.Contains(","+d.Options, ",blocking") {
		o.Blocking, err = isBlocking(fd)
	}
	if o.Mode == nil && o.User == "" && o.Group == "" && is.Network().In(spec.Unix) {
		describeFile(o, is.Address, fd)
	}
	return o, err
}

// describeFile adds to o the mode of the file of a Unix socket, and its owners unless they are this process's own. It
// adds nothing if the file is not known to be the socket's, or if this process may not set them.
func describeFile(o *spec.Options, path string, fd int) {
	var st unix.Stat_t
	if strings.HasPrefix(path, "@") || unix.Lstat(path, &st) != nil {
		return
	}
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	file, err := sockfile.Find(path)
	if err != nil || file.ID() != sockdiag.FileIDOf(&st) || !file.IsOf(fd) || uid != 0 && uid != st.Uid {
		return
	}
	o.Mode = new(os.FileMode(st.Mode).Perm())
	if st.Uid != uid {
		o.User = fmt.Sprint(st.Uid)
	}
	if st.Gid != gid && uid == 0 {
		o.Group = fmt.Sprint(st.Gid)
	}
}

func (d Donation) parse(n *spec.Network) (*spec.Options, error) {
	if d.Options == "" {
		return new(spec.Options), nil
	}
	return spec.ParseOptions(n, d.Options)
}

// checkWritable returns an error if the text of s means something else: behind a comma in an address would be options.
// A broker that restores the socket has only the text.
func checkWritable(s spec.Spec) error {
	if err := s.Check(); err != nil {
		return err
	}
	if is, err := spec.Parse(s.String()); err != nil || !is.Equal(s) {
		return fmt.Errorf("its address, %q, cannot be written in a spec", s.Address)
	}
	return nil
}

func kindOf(fd int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", os.NewSyscallError("fstat", err)
	}
	kinds := map[uint32]string{
		unix.S_IFSOCK: "socket", unix.S_IFIFO: "pipe", unix.S_IFDIR: "directory",
		unix.S_IFCHR: "device", unix.S_IFBLK: "device",
	}
	if kind, known := kinds[st.Mode&unix.S_IFMT]; known {
		return kind, nil
	}
	// "anon_inode:[eventfd]", or "/memfd:NAME (deleted)" (proc_pid_fd(5)).
	link, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	kind, rest, _ := strings.Cut(strings.TrimPrefix(link, "/"), ":")
	switch kind {
	case "memfd", "pidfd":
		return kind, nil
	case "anon_inode":
		if kind = strings.Trim(rest, "[]"); kind != "" && spec.IsWord(kind) {
			return kind, nil
		}
		return "anonymous", nil
	}
	return "file", nil
}
