// Package notify tells the service manager that started this process how it is
// doing, in the protocol of sd_notify(3). It neither logs nor decides anything.
package notify
