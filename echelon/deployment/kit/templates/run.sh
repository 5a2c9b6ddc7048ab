#!/bin/sh
# Submits a run and follows it: @USAGE@
set -eu
cd "$(dirname "$0")"
. ./environment.sh
test -s nodes.txt || sh register.sh
@RUN@
