#!/bin/sh
# Runs a command again whenever it ends.
#
#   sh loop.sh fdclient get --stdin web -- python3 worker.py
#
# This is all the supervision that the experiment needs. A loop meant to outlive restarts of the
# broker too would say "fdclient get --wait".
set -eu

while :; do
	status=0
	"$@" || status=$?
	case $status in
	125 | 126 | 127) # there is no socket for it, or no such command: once more would not help
		echo "loop: $1: cannot be started (status $status)" >&2
		exit "$status"
		;;
	esac
	echo "loop: $1 ended (status $status), again" >&2
done
