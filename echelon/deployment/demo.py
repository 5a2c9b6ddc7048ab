"""A deployment on this machine: ``python -m echelon.deployment.demo [--stock] [key=value ...]``, ``make deploy-demo``.

Starts a SuperLink with TLS, SuperNode authentication and a database, and three nodes of different speeds (with
``--stock``, Flower's own SuperNodes), each in its own process; then submits a run as on real machines and follows it to
the end. Keys, database and logs are in a temporary folder; only the run folder remains.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from echelon.deployment.loopback import Loopback

# Samples per second: the four batches of a round take one, two and four seconds.
SPEEDS = (256, 128, 64)
SETTINGS = (
    *(f"workers={len(SPEEDS)}", "rounds=8", "eval_every=4", "checkpoint_every=4", "local_steps=4", "batch_size=64"),
    *("partitioner=stratified", "work=non_blocking", "strategy=d_psgd", "topology=ring"),
)
_STOCK = "--stock"


def main(overrides: list[str], *, stock: bool = False) -> int:
    """Run the demonstration, with Flower's own SuperNodes if ``stock``.

    Returns
    -------
    int
        The exit status: 130 or 143 if Ctrl-C or SIGTERM stopped it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    run_dir = Path(f"runs/deploy-demo/{datetime.now():%Y-%m-%d-%H-%M-%S}").resolve()
    with tempfile.TemporaryDirectory(prefix="echelon-") as folder:
        say("certificates created; starting the SuperLink (TLS, SuperNode authentication, database)")
        with Loopback(Path(folder)) as deployment:
            names = [f"supernode-{rank}" for rank in range(len(SPEEDS))]
            say(f"registering the keys of {len(names)} SuperNodes")
            deployment.register(*names)
            for rank, (name, speed) in enumerate(zip(names, SPEEDS, strict=True)):
                config = f"rank={rank} num-partitions={len(SPEEDS)} samples-per-second={speed}"
                deployment.start_node(name, config, stock=stock)
                say(f"{name} started: {config}")
            following = deployment.run(overrides=" ".join([*SETTINGS, *overrides, f"run_dir={run_dir}"]))
            say("run submitted with flwr run; the first messages start the processes of the workers")
            for record in _rounds(run_dir / "metrics.jsonl", following):
                say(_format_round(record))
            finished = (run_dir / "summary.json").exists()
            if not finished:
                print(deployment.log("run"), file=sys.stderr)
        say("everything stopped")
    print(run_dir)
    return 0 if finished else 1


def _stop(number: int, frame: object) -> None:
    """End the demonstration, with its processes and its temporary folder; further signals change nothing."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    print("stopping ...", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def _rounds(file: Path, following: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the record of each round as it is written, with its duration in seconds, until the run has ended."""
    count, before = 0, 0.0
    ended = False
    while not ended:
        ended = following.poll() is not None
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        for line in lines[count:]:
            if line.endswith("\n"):
                record = json.loads(line)
                yield {**record, "seconds": record["wall_seconds"] - before}
                count, before = count + 1, record["wall_seconds"]
        time.sleep(0.2)


def _format_round(record: dict[str, Any]) -> str:
    done = ", ".join("-" if number is None else str(number) for number in record["minibatches"])
    computing = max(seconds for seconds in record["compute_seconds"] if seconds is not None)
    text = f"round {record['round']}: {record['seconds']:.1f} s, of which {computing:.2f} s computing"
    accuracy = record.get("consensus_accuracy")
    return f"{text}; mini-batches {done}" + ("" if accuracy is None else f"; accuracy {accuracy:.3f}")


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main([each for each in given if each != _STOCK], stock=_STOCK in given))
