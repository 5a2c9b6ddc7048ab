#!/bin/sh
# Registers the SuperNodes' keys at the SuperLink; run again, it registers what is new.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
sh install.sh
mkdir -p home
sed "s|^root-certificates = .*|root-certificates = \"$PWD/ca.crt\"|" config.toml > home/config.toml
echelon register keys kit > nodes.new
mv nodes.new nodes.txt
cat nodes.txt
