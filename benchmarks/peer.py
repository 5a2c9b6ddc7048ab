"""What a round without a server costs beyond computing, beside the same bytes sent with torch.distributed alone.

    python -m benchmarks.peer [--workers 3 8] [--megabytes 0.2 45] [--rounds 30]

Processes on this machine (gloo, loopback, one thread each) take turns: in every round, a bare ``all_reduce``, a bare
exchange of rows with both neighbours of a ring, and rounds of ``Peer`` whose training does nothing, with AllReduce and
with DPSGD on a ring. Reported are the medians over the rounds of the slowest process, in milliseconds.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from benchmarks.processes import spawn
from echelon.core.strategy import Strategy
from echelon.peer import Peer
from strategies import DPSGD, AllReduce, FullBatch

WARM_UP = 3
WORK = FullBatch(batch_size=1, minibatch_size=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, nargs="+", default=[3, 8])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.2, 45.0])
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    print("| workers | MB | all_reduce | Peer, AllReduce | ring exchange | Peer, DPSGD on a ring |")
    print("|---|---|---|---|---|---|")
    for workers in arguments.workers:
        spawn(workers, measure, arguments.megabytes, arguments.rounds)


def measure(megabytes: list[float], rounds: int) -> None:
    """Measure in one of the processes; the first one prints."""
    for size in megabytes:
        medians = " | ".join(f"{1e3 * seconds:.1f}" for seconds in of_size(size, rounds))
        if dist.get_rank() == 0:
            print(f"| {dist.get_world_size()} | {size:g} | {medians} |", flush=True)


def of_size(megabytes: float, rounds: int) -> list[float]:
    """Return the median seconds of each step with rows of a size."""
    length = round(megabytes * 1e6 / 4)
    steps = [
        bare_all_reduce(length),
        round_of_peers(AllReduce(work=WORK), length),
        bare_ring(length),
        round_of_peers(DPSGD("ring", work=WORK), length),
    ]
    return timed(steps, rounds)


def timed(steps: list[Callable[[], None]], rounds: int) -> list[float]:
    """Return the median seconds of each step; steps alternate, so that all run under the same load."""
    spent = torch.zeros(len(steps), rounds + WARM_UP, dtype=torch.float64)
    for number in range(rounds + WARM_UP):
        for place, step in enumerate(steps):
            dist.barrier()
            start = time.perf_counter()
            step()
            spent[place, number] = time.perf_counter() - start
    dist.all_reduce(spent, dist.ReduceOp.MAX)
    medians: list[float] = np.median(spent[:, WARM_UP:].numpy(), axis=1).tolist()
    return medians


def bare_all_reduce(length: int) -> Callable[[], None]:
    row = torch.ones(length)

    def step() -> None:
        dist.all_reduce(row)
        row.div_(dist.get_world_size())

    return step


def bare_ring(length: int) -> Callable[[], None]:
    process, workers = dist.get_rank(), dist.get_world_size()
    neighbours = sorted({(process - 1) % workers, (process + 1) % workers} - {process})
    row, received = torch.ones(length), [torch.empty(length) for _ in neighbours]

    def step() -> None:
        sends = [dist.P2POp(dist.isend, row, neighbour) for neighbour in neighbours]
        receives = [dist.P2POp(dist.irecv, buffer, n) for n, buffer in zip(neighbours, received, strict=True)]
        for work in dist.batch_isend_irecv(sends + receives):
            work.wait()

    return step


def round_of_peers(strategy: Strategy, length: int) -> Callable[[], None]:
    model = nn.Module()
    model.register_parameter("row", nn.Parameter(torch.ones(length)))
    peer, loader = Peer(strategy, model), [torch.zeros(1)]

    def step() -> None:
        for _ in peer.minibatches(loader):
            pass
        peer.mix()

    return step


if __name__ == "__main__":
    main()
