package main

import "strings"

const usage = `fdclient asks an fdbroker for listening sockets, and tells it what to bind.

Usage:
  fdclient [--socket PATH] VERB ...

Verbs:
  get NAME... -- CMD   run CMD with the sockets of these listeners open
  run NAME... -- CMD   keep such processes running, and replace them without a gap
  roll NAME            make 'fdclient run' replace its workers, and wait for that
  list                 show the listeners, their queues and their holders
  watch                print what happens, as it happens
  bind SPEC...         bind listeners
  unbind NAME...       close listeners
  drain NAME...        ask the holders of listeners to leave
  put NAME             store a socket that another program opened
  adopt NAME --pid N   store the socket of a running server
  reload               make the broker read its configuration file again
  upgrade              replace the running broker with the program now on disk
  addr NAME            print the address that a listener is bound to
  ping                 check whether a broker answers
  completion SHELL     print a script that makes a shell complete both commands
  version              print the version of fdclient

'fdclient VERB --help' tells more. The control socket is --socket, else
$FDBROKER_SOCKET, else /run/fdbroker/control for root. For other users it is
$XDG_RUNTIME_DIR/fdbroker/control, or /run/fdbroker/control if that does not exist.

Exit status: 0 done, 1 refused or failed, 2 wrong usage; of get and run: 125 fdclient
itself failed, 126 CMD cannot be run, 127 CMD is not found, else CMD's own (of get).
`

func verbs() []*verb {
	return []*verb{
		&getVerb, &runVerb, &rollVerb, &listVerb, &watchVerb, &bindVerb, &unbindVerb, &drainVerb, &putVerb, &adoptVerb, &reloadVerb,
		&upgradeVerb, &addrVerb, &pingVerb, &completionVerb, &versionVerb,
	}
}

// findVerb returns the verb of that name, or nil.
func findVerb(name string) *verb {
	for _, v := range verbs() {
		if v.name() == name {
			return v
		}
	}
	return nil
}

// summary is the line of the usage about the verb.
func (v *verb) summary() string {
	_, list, _ := strings.Cut(usage, "\nVerbs:\n")
	for line := range strings.SplitSeq(list, "\n") {
		if words, summary, ok := strings.Cut(strings.TrimSpace(line), "  "); ok && strings.Fields(words)[0] == v.name() {
			return strings.TrimSpace(summary)
		}
	}
	return ""
}
