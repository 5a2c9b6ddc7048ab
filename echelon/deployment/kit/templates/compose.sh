#!/bin/sh
# Builds the image and starts this machine's container, as the user who owns this folder.
set -eu
cd "$(dirname "$0")"
KIT_USER="$(id -u):$(id -g)" exec docker compose up --build --detach
