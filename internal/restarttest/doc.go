// Package restarttest kills and upgrades brokers and keepers while clients connect to
// what they hold, and counts what that costs. It has tests only.
//
// FDTEST_RESTARTS multiplies how often: 10 kills a broker 50 times, a keeper 20 times, and upgrades 20 times.
package restarttest
