// Package complete answers the completion scripts of the shells: what may stand where
// the cursor is. It knows that from the flags that a command defines, so a flag or a
// verb that is new is completed without anything to be done for it. It is not for
// parsing command lines: what is wrong in one is simply not completed.
package complete
