// Package version says which version of fdbroker this is, for both commands.
package version

// Number is the version of this tree, by semantic versioning.
const Number = "0.1.0"
