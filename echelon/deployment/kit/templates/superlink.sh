#!/bin/sh
# Starts the SuperLink; Ctrl-C or SIGTERM stops it. The ServerApp writes its run folders to runs/.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
sh install.sh
exec flower-superlink --host 0.0.0.0 --port @PORT@ --database state.db --enable-supernode-auth \
    --ssl-ca-certfile ca.crt --ssl-certfile server.pem --ssl-keyfile server.key --disable-runtime-dependency-installation
