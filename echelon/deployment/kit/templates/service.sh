#!/bin/sh
# Installs this folder as a service that starts with the machine; run it as root.
set -eu
cd "$(dirname "$0")"
id echelon >/dev/null 2>&1 || useradd --system --home-dir @PLACE@ --shell /usr/sbin/nologin echelon
mkdir -p @PLACE@/@NAME@
cp -R . @PLACE@/@NAME@/
chown -R echelon: @PLACE@
chmod 700 @PLACE@ @PLACE@/@NAME@
systemctl enable --now @PLACE@/@NAME@/echelon-@NAME@.service
