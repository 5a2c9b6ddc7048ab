"""What a round without a server costs beyond computing, beside the same bytes sent with torch.distributed alone.

    python -m benchmarks.peer [--workers 3 4 8] [--megabytes 0.2 45] [--rounds 30] [--out FILE]

Processes on this machine (gloo, loopback, one thread each) take turns: in every round, a bare ``all_reduce``, a bare
exchange of rows with both neighbours of a ring, without and with their weighted sum, rounds of ``Peer`` whose training
does nothing, with AllReduce and with DPSGD on a ring and on the one-peer schedule, and, where it is installed, rounds
of decent-dp on its ring, which exchanges with one neighbour at a time, and its one-peer graphs. Reported are medians
over the rounds, in milliseconds: the time of the slowest process, and after a slash the CPU time of a process, which
depends less on what else the machine does. ``--out`` adds the results to a file, as those of docs/peer.md are kept in
benchmarks/results/peer.jsonl.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from benchmarks import decent
from benchmarks.processes import spawn
from echelon.core.strategy import Strategy
from echelon.peer import Peer
from strategies import DPSGD, AllReduce, FullBatch

WARM_UP = 3
WORK = FullBatch(batch_size=1, minibatch_size=1)
TENSORS = 10
BARE, AVERAGED = "all_reduce", "Peer, AllReduce"
EXCHANGED, SUMMED, RING = "ring exchange", "ring exchange, summed", "Peer, ring"
PAIRS, OTHER_RING, OTHER_PAIRS = "Peer, one-peer", "decent-dp, ring", "decent-dp, one-peer"
NAMES = (BARE, AVERAGED, EXCHANGED, SUMMED, RING, PAIRS, OTHER_RING, OTHER_PAIRS)
RATIOS = ((AVERAGED, BARE), (RING, EXCHANGED), (RING, SUMMED), (RING, OTHER_RING), (PAIRS, OTHER_PAIRS))

Step = Callable[[], None]
Medians = dict[str, NDArray[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, nargs="+", default=[3, 4, 8])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.2, 45.0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not decent.is_installed():
        print("decent-dp is not installed (benchmarks/requirements.txt): its columns are left out")
    with TemporaryDirectory() as folder:
        out = arguments.out or Path(folder) / "peer.jsonl"
        for workers in arguments.workers:
            spawn(workers, measure, arguments.megabytes, arguments.rounds, out)
        print("\n".join(table(load(out))))


def measure(megabytes: list[float], rounds: int, out: Path) -> None:
    """Measure in one of the processes; the first one adds the medians to a file."""
    for size in megabytes:
        medians = {name: [round(1e3 * part, 3) for part in parts] for name, parts in of_size(size, rounds).items()}
        if dist.get_rank() == 0:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"workers": dist.get_world_size(), "megabytes": size, "ms": medians}) + "\n")


def load(file: Path) -> list[dict[str, Any]]:
    """Return the results in a file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def table(results: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table: a column for each result, the medians, and then the ratios."""
    heads = [f"{result['workers']} × {result['megabytes']:g} MB" for result in results]
    medians: list[dict[str, list[float]]] = [result["ms"] for result in results]
    rows = [["", *heads], ["---"] * (1 + len(heads))]
    for name in NAMES:
        rows.append([name, *(_pair(found[name], 1) if name in found else "" for found in medians)])
    for one, other in RATIOS:
        cells = (_pair(np.divide(found[one], found[other]), 2) if other in found else "" for found in medians)
        rows.append([f"{one} : {other}", *cells])
    return [f"| {' | '.join(row)} |" for row in rows]


def _pair(values: Sequence[float] | NDArray[np.float64], digits: int) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values)


def of_size(megabytes: float, rounds: int) -> Medians:
    """Return the median seconds and CPU seconds of each step, by name, with rows of a size."""
    length = round(megabytes * 1e6 / 4)
    steps = {
        BARE: bare_all_reduce(length),
        AVERAGED: round_of_peers(AllReduce(work=WORK), length),
        EXCHANGED: bare_ring(length),
        SUMMED: bare_ring(length, sums=True),
        RING: round_of_peers(DPSGD("ring", work=WORK), length),
        PAIRS: round_of_peers(DPSGD("one_peer", work=WORK), length),
    }
    for name, topology in ((OTHER_RING, "ring"), (OTHER_PAIRS, "one-peer-exp")):
        if decent.is_installed() and decent.can_run(topology, dist.get_world_size()):
            steps[name] = decent.round_of(topology, model_of(length))
    return timed(steps, rounds)


def timed(steps: dict[str, Step], rounds: int) -> Medians:
    """Return the medians of each step; steps alternate, so that all run under the same load."""
    spent = torch.zeros(2, len(steps), rounds + WARM_UP, dtype=torch.float64)
    for number in range(rounds + WARM_UP):
        for place, step in enumerate(steps.values()):
            dist.barrier()
            start, computed = time.perf_counter(), time.process_time()
            step()
            spent[0, place, number] = time.perf_counter() - start
            spent[1, place, number] = time.process_time() - computed
    dist.all_reduce(spent[0], dist.ReduceOp.MAX)
    dist.all_reduce(spent[1])
    spent[1] /= dist.get_world_size()
    return dict(zip(steps, np.median(spent[:, :, WARM_UP:].numpy(), axis=2).T, strict=True))


def model_of(length: int) -> nn.Module:
    """Return a model with so many values in some tensors."""
    return nn.ParameterList([nn.Parameter(part.clone()) for part in torch.ones(length).chunk(TENSORS)])


def bare_all_reduce(length: int) -> Step:
    row = torch.ones(length)

    def step() -> None:
        dist.all_reduce(row)
        row.div_(dist.get_world_size())

    return step


def bare_ring(length: int, sums: bool = False) -> Step:
    process, workers = dist.get_rank(), dist.get_world_size()
    neighbours = sorted({(process - 1) % workers, (process + 1) % workers} - {process})
    row, received = torch.ones(length), [torch.empty(length) for _ in neighbours]

    def step() -> None:
        sends = [dist.P2POp(dist.isend, row, neighbour) for neighbour in neighbours]
        receives = [dist.P2POp(dist.irecv, buffer, n) for n, buffer in zip(neighbours, received, strict=True)]
        for work in dist.batch_isend_irecv(sends + receives):
            work.wait()
        if sums:
            row.mul_(1 / 3)
            for buffer in received:
                row.add_(buffer, alpha=1 / 3)

    return step


def round_of_peers(strategy: Strategy, length: int) -> Step:
    peer, loader = Peer(strategy, model_of(length)), [torch.zeros(1)]

    def step() -> None:
        for _ in peer.minibatches(loader):
            pass
        peer.mix()

    return step


if __name__ == "__main__":
    main()
