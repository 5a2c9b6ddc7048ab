"""Time from a fresh clone to the first deployed round: ``python -m benchmarks.first_round``.

Types what docs/deployment.md says, on this machine: clones this checkout's last commit, sets it up, makes a kit, and
starts its folders as three SuperNodes and a SuperLink, which share the clone's environment. Prints each command with
its seconds, and when the first round ended.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from echelon.deployment.loopback import free_port

ROOT = Path(__file__).resolve().parents[1]
MACHINES = ("superlink", "node-0", "node-1", "node-2")
OVERRIDES = "rounds=3 strategy=d_psgd topology=ring"


def main() -> int:
    """Run the commands; return the status of the run."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="echelon-") as folder:
        home = Path(folder)
        clone, kit = home / "clone", home / "kit"
        environment = {**os.environ, "ECHELON_ENV": str(clone / ".venv")}
        make = f"make deploy-kit NODES=3 HOST=127.0.0.1 OUT={kit} ARGS='--port {free_port()}'"
        for command, where in ((f"git clone --quiet {ROOT} clone", home), (make, clone)):
            done = subprocess.run(command, shell=True, cwd=where, capture_output=True, text=True, check=False)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return done.returncode
            _say(began, command)
        started = [_start(kit / name, environment) for name in MACHINES]
        try:
            for name in MACHINES:
                _say(began, f"sh {name}/start.sh")
            return _follow(f"sh operator/run.sh {OVERRIDES}", kit, environment, began)
        finally:
            for process in started:
                os.killpg(process.pid, signal.SIGTERM)
            for process in started:
                process.wait()


def _start(machine: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    with (machine / "log").open("wb") as log:
        command = ["sh", str(machine / "start.sh")]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _follow(command: str, kit: Path, environment: dict[str, str], began: float) -> int:
    """Submit the run and say when it was submitted and when its rounds ended; return its status."""
    _say(began, command)
    process = subprocess.Popen(command.split(), cwd=kit, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"round +\d+/\d+|Successfully started run|\d+ of \d+ workers.*", line):
            _say(began, f"  {found.group()}")
    return process.wait()


def _say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
