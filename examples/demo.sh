#!/bin/sh
# Builds the commands into bin/ and shows what they are for, on loopback and without root: a worker
# answers on a broker's port, is killed, and a request that comes while nobody serves is answered by
# the next worker. Then both go on until Ctrl-C.
#
#   examples/demo.sh [ADDRESS]        ADDRESS is 127.0.0.1:9000 unless given
set -eu
cd "$(dirname "$0")/.."
address=${1:-127.0.0.1:9000}
CGO_ENABLED=0 go build -o bin/ ./cmd/... ./examples/http
dir=$(mktemp -d)
export FDBROKER_SOCKET="$dir/control"
broker='' worker=''
finish() {
	trap - EXIT INT TERM
	# shellcheck disable=SC2086 # one word each, or none
	kill $worker $broker 2>/dev/null || true
	wait
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

bold='' plain=''
if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi
say() { printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"; }
request() { curl -sS --max-time 30 "http://$(bin/fdclient addr web)/"; }
serve() {
	bin/http &
	worker=$!
	until bin/fdclient list | grep -q " $worker "; do :; done
}

say "fdbroker --bind web=$address"
bin/fdbroker --bind "web=$address" --log-format console &
broker=$!
until bin/fdclient ping >/dev/null 2>&1; do kill -0 "$broker" 2>/dev/null || exit 1; done

say './http                    # a worker: net/http on broker.Dial("web")'
serve
say "curl http://$(bin/fdclient addr web)/"
request

say "kill -9 $worker           # it crashes, and nobody serves"
kill -9 "$worker"
wait "$worker" 2>/dev/null || true
say "curl http://$(bin/fdclient addr web)/ &      # is not refused: the broker's socket queues it"
request &
asked=$!
until bin/fdclient list --json | grep -q '"orphaned": true'; do :; done
bin/fdclient list
say './http                    # the next worker, started by anything'
serve
wait "$asked"

say 'fdclient list'
bin/fdclient list
printf '\nBoth go on until Ctrl-C. In another terminal:\n  curl http://%s/\n  FDBROKER_SOCKET=%s bin/fdclient list\n' "$(bin/fdclient addr web)" "$FDBROKER_SOCKET"
wait "$broker"
