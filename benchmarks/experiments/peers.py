"""Peers in real time, one of them slow: seconds to the same loss, blocking and non-blocking.

    python -m benchmarks.experiments.peers [--workers 4] [--seeds 3] [--slowdown 4] [--target 0.4]

Processes on this machine (gloo, one thread each); worker 0 computes every gradient ``slowdown`` times. Shards of
scikit-learn's digits, IID. After every round, the loss of the consensus model over all training samples is measured,
which does not count as time. Blocking and non-blocking runs alternate.
"""

import argparse
import statistics
import time

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from benchmarks.processes import spawn
from echelon.core.strategy import Strategy
from echelon.core.work import WorkPolicy
from echelon.peer import Peer
from strategies import ALDSGD, DPSGD, FullBatch, NonBlocking

BATCH, MINIBATCH = 320, 20
WORK: tuple[WorkPolicy, ...] = (FullBatch(1, BATCH, MINIBATCH), NonBlocking(1, BATCH, MINIBATCH))
STRATEGIES: dict[str, type[DPSGD | ALDSGD]] = {"d_psgd": DPSGD, "al_dsgd": ALDSGD}
MOST_ROUNDS = 200


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slowdown", type=int, default=4)
    parser.add_argument("--target", type=float, default=0.4)
    arguments = parser.parse_args()
    print("| strategy | seed | blocking: s | rounds | samples/s | non-blocking: s | rounds | samples/s | speed-up |")
    print("|---" * 9 + "|")
    spawn(arguments.workers, all_runs, arguments.seeds, arguments.slowdown, arguments.target)


def all_runs(seeds: int, slowdown: int, target: float) -> None:
    """Do all runs in one of the processes; the first one prints."""
    prints = dist.get_rank() == 0
    for name, strategy in STRATEGIES.items():
        gains = []
        for seed in range(seeds):
            runs = [run(strategy("ring", work=chosen, seed=seed), seed, slowdown, target) for chosen in WORK]
            gains.append(runs[0][0] / runs[1][0])
            cells = " | ".join(f"{seconds:.2f} | {rounds} | {speed:.0f}" for seconds, rounds, speed in runs)
            if prints:
                print(f"| {name} | {seed} | {cells} | {gains[-1]:.2f} |", flush=True)
        if prints:
            print(f"| {name} | median | | | | | | | {statistics.median(gains):.2f} |", flush=True)


def run(strategy: Strategy, seed: int, slowdown: int, target: float) -> tuple[float, int, float]:
    """Return the seconds and rounds to the target, and the samples per second of all workers."""
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    torch.manual_seed(seed)
    order = torch.randperm(len(x))[dist.get_rank() :: dist.get_world_size()]
    loader = list(zip(torch.split(x[order], MINIBATCH), torch.split(y[order], MINIBATCH), strict=True))
    model, probe = build_model(), build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    peer = Peer(strategy, model, optimizer)
    seconds, samples, rounds = 0.0, 0, 0
    reached = False
    while not reached and rounds < MOST_ROUNDS:
        dist.barrier()
        start, total, count = time.perf_counter(), 0.0, 0
        for inputs, labels in peer.minibatches(loader):
            for _ in range(slowdown if peer.rank == 0 else 1):
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(inputs), labels)
                torch.autograd.backward(loss)
            optimizer.step()
            total, count = total + loss.item(), count + 1
        samples += int(peer.mix(total / count).samples.sum())
        seconds, rounds = seconds + time.perf_counter() - start, rounds + 1
        probe.load_state_dict(peer.consensus())
        with torch.no_grad():
            reached = functional.cross_entropy(probe(x), y).item() <= target  # the same bits in every process
    longest = torch.tensor([seconds])
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return longest.item(), rounds, samples / longest.item()


def build_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))


if __name__ == "__main__":
    main()
