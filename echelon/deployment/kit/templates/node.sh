#!/bin/sh
# Runs the SuperNode until Ctrl-C or SIGTERM; its rank, data and device are in the file node-config.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
sh install.sh
trap 'kill "$child"; wait "$child" || true; exit 143' INT TERM
# It ends if the SuperLink does not know its key yet, or has not noticed that an earlier one with this key is gone.
while :; do
    @NODE_COMMAND@ --superlink @ADDRESS@ --root-certificates ca.crt --auth-supernode-private-key node.key \
        --host 127.0.0.1 --port @NODE_PORT@ --node-config "$(cat node-config)" &
    child=$!
    wait "$child" || true
    echo "The SuperNode has ended; it starts again in 5 s" >&2
    sleep 5 &
    child=$!
    wait "$child"
done
