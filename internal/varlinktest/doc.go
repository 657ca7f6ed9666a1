// Package varlinktest holds the interface text to what Varlink's grammar allows, and the broker to the interface text:
// its own reader of definitions is strict, compares them with the Go types, and checks real replies. And varlinkctl of
// systemd, in a tree of its own, is a client like any other. No product code imports it.
//
// FDBROKER_SYSTEMD_BOX names the program that makes such trees; without it that test is skipped.
package varlinktest
