# Settings of Flower's programs; read by the scripts beside this file.
umask 077
ECHELON_ENV=${ECHELON_ENV:-$PWD/.venv}
# Flower starts its other programs by name.
export PATH="$ECHELON_ENV/bin:$PATH"
export FLWR_HOME="$PWD/home"
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
# Seconds between two looks for a message that has arrived; Flower's default is 1.
export FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.1
