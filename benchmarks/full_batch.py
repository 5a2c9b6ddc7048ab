"""What a step on a full batch costs in mini-batches one by one, and computed at once.

    python -m benchmarks.full_batch [--minibatches 8] [--sizes 8 32] [--repeats 15]

One worker's step, as the client takes it (`clients.training.train`), on random images; the ways take turns. Reported
are medians of CPU milliseconds on one thread, and of the ratios.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.simulation import SHAPE, small_cnn
from clients.clocks import VirtualClock
from clients.data import TensorData
from clients.model import FlatModel
from clients.training import train
from echelon.protocol.messages import TrainInstructions
from tasks.models import build_model


def large_cnn() -> nn.Module:
    """Return a network for colour images of 32 x 32."""
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4096, 10))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: build_model("mlp", SHAPE), SHAPE.input_shape),
    "cnn": (small_cnn, SHAPE.input_shape),
    "cnn 32 x 32": (large_cnn, (3, 32, 32)),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minibatches", type=int, default=8)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | mini-batches | one by one, ms | at once, ms | ratio |")
    print("|---|---|---|---|---|")
    for name, (build, shape) in MODELS.items():
        for size in options.sizes:
            batch = options.minibatches * size
            data = TensorData(torch.rand(batch, *shape), torch.randint(10, (batch,)))
            told = TrainInstructions(batch_size=batch, minibatch_size=size)
            model = FlatModel(build())
            spent = []
            for _ in range(options.repeats + 1):
                spent.append([step(model, data, told, most) for most in (0, batch)])
            apart, at_once = 1e3 * np.array(spent[1:]).T
            times = f"{np.median(apart):.2f} | {np.median(at_once):.2f} | {np.median(apart / at_once):.2f}x"
            print(f"| {name} | {options.minibatches} of {size} | {times} |", flush=True)


def step(model: FlatModel, data: TensorData, told: TrainInstructions, most_samples: int) -> float:
    """Return the CPU seconds of a step."""
    began = time.process_time()
    clock = VirtualClock(1.0, lambda: 1.0)
    train(model, data, torch.arange(told.batch_size), told, clock, most_samples=most_samples)
    return time.process_time() - began


if __name__ == "__main__":
    main()
