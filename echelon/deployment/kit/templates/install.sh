#!/bin/sh
# Installs Flower, Echelon and what the app needs, unless they are there: into $ECHELON_ENV, by default .venv here.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
python -c "import echelon, flwr" 2>/dev/null && exit 0
echo "Installing into $ECHELON_ENV, once; torch is the largest part, several GB with CUDA"
"${PYTHON:-python3}" -m venv "$ECHELON_ENV"
# By its path: a shell that has found another python remembers where.
"$ECHELON_ENV/bin/python" -m pip install --constraint constraints.txt --requirement requirements.txt
"$ECHELON_ENV/bin/python" -m pip install --no-deps wheels/*.whl
