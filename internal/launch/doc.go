// Package launch turns the calling process into a server that finds granted
// sockets open: it places them, sets the environment that tells about them,
// replaces placeholders, and execs. It is what stands behind
// "fdclient get NAME... -- CMD"; asking the broker is not its business.
//
// # What the program finds
//
// The sockets are at 3, 4, ... in the order of [Config.Sockets], or the only one
// at 0. The program keeps the caller's pid, and so its grant. What else it finds
// is the caller's: working directory, umask, soft RLIMIT_NOFILE (which Go raises
// for itself, and [syscall.Exec] restores), and descriptors.
//
// Of fdclient's own descriptors none stays open: all are close-on-exec. One that
// the caller had opened beyond 2 and meant to be inherited, such as a shell's
// "5<file", is inherited as ever; only where a socket takes its number does it
// give way. Where the caller had closed 0, 1 or 2, Go's runtime opened /dev/null
// there before main began (runtime.checkfds), and that is what the program finds.
//
// # What cannot be kept
//
// Go's runtime installs handlers for nearly all signals before main begins, and
// exec resets handled signals to their default. It spares SIGHUP and SIGINT where
// they were ignored, so nohup works. Others that the caller ignored, such as
// SIGPIPE under systemd's IgnoreSIGPIPE=, come back as default: what they were is
// known to the runtime alone (runtime.initsig).
//
// PR_SET_PDEATHSIG is the one attribute of the caller that belongs to its main
// thread only. The program has it where [Program.Exec] is called on that thread,
// which a main function ensures by calling [runtime.LockOSThread] first of all.
package launch
