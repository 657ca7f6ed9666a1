// Package launch turns the calling process into a server that finds granted sockets open: it places them, sets the
// environment that tells about them, replaces placeholders, and execs. It is the second half of "fdclient get NAME...
// -- CMD", and of a broker that replaces itself. It knows nothing about brokers, and logs nothing.
//
// # The program's attributes
//
// The sockets are at 3, 4, ... in the order of [Config.Sockets], or the only one at 0. The program keeps the caller's
// pid, and so its grant. It has these of the caller: working directory, umask, soft RLIMIT_NOFILE (Go raises that for
// itself, and [syscall.Exec] restores it), and descriptors.
//
// No descriptor of fdclient's own stays open: all are close-on-exec. A descriptor beyond 2 that the caller left open,
// such as a shell's "5<file", is inherited, unless a socket takes its number. If the caller has closed 0, 1 or 2, the
// program finds /dev/null there, which Go's runtime opens before main (runtime.checkfds).
//
// # Signals and other limits
//
// Go's runtime installs handlers for nearly all signals before main, and exec resets handled
// signals to their default. The runtime leaves SIGHUP and SIGINT alone if they are ignored, so
// nohup works. Other signals that the caller ignored, such as SIGPIPE under systemd's
// IgnoreSIGPIPE=, become default: only the runtime knows their former state (runtime.initsig).
//
// PR_SET_PDEATHSIG is the one attribute of the caller that belongs to its main thread only. The program has it if
// [Program.Exec] or [Program.ExecOnThread] is called on that thread. A main function ensures that by calling
// [runtime.LockOSThread] first.
package launch
