"""What a worker's local steps cost beside a bare PyTorch loop that accumulates and steps alike.

    python -m benchmarks.local_step [--models mlp cnn resnet18] [--device cpu] [--precision fp32] [--repeats 15]

A round is `--steps` steps of SGD with momentum over batches of `--batch` samples in mini-batches of `--minibatch`, on
random images of 32 x 32 (mlp and cnn: 28 x 28 grey). `train` is the worker's loop alone, `Worker.train` with the
messages in and out, both with their random generators and clock. The three alternate, so that all run under the same
load; reported are the bare loop's median milliseconds and the medians of the ratios to it, in CPU seconds on the CPU
and in wall seconds, synchronised, on another device.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from flwr.app import RecordDict
from torch import nn

from clients.data import TensorData
from clients.objectives import Objective, cross_entropy
from clients.training import train
from clients.worker import Worker
from echelon.core.clocks import WallClock
from echelon.protocol.messages import ARRAYS, CONFIG, TrainInstructions
from tasks import Shape
from tasks.models import build_model

SHAPES = {"mlp": Shape((1, 28, 28), 10), "cnn": Shape((1, 28, 28), 10)}
IMAGES = Shape((3, 32, 32), 10)
SAMPLES, WARM_UP = 2048, 2
LEARNING_RATE, MOMENTUM = 0.01, 0.9


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn", "resnet18"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--minibatch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    print("| model | bare loop, ms | train | Worker.train |")
    print("|---|---|---|---|")
    for name in options.models:
        bare, *ratios = compare(name, options)
        print(f"| {name} | {1e3 * bare:.1f} | {' | '.join(f'{ratio:.2f}x' for ratio in ratios)} |", flush=True)


def compare(name: str, options: argparse.Namespace) -> tuple[float, float, float]:
    """Return the median seconds of the bare loop, and the median ratios of the worker's loop and requests to it."""
    shape = SHAPES.get(name, IMAGES)
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.rand(SAMPLES, *shape.input_shape, generator=drawn)
    data = TensorData(inputs, torch.randint(shape.num_classes, (SAMPLES,), generator=drawn))
    build = partial(build_model, name, shape, seed=0)
    objective = Objective(precision=options.precision)
    worker = Worker(build, device=options.device, objective=objective)
    worker.hold(0, lambda: data)
    asked = TrainInstructions(
        rank=0,
        local_steps=options.steps,
        batch_size=options.batch,
        minibatch_size=options.minibatch,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
    )
    content = RecordDict({ARRAYS: worker.model.arrays(), CONFIG: asked.to_config()})
    indices = torch.arange(options.steps * options.batch) % SAMPLES

    def loop() -> None:
        steps = worker.optimizer.prepare(worker.model, asked, {})
        train(worker.model, data, indices, asked, WallClock(), optimizer=steps, objective=objective)

    steps: list[Callable[[], object]] = [
        bare_loop(build(), data, indices, options),
        loop,
        lambda: worker.train(0, content),
    ]
    for step in steps * WARM_UP:
        step()
    spent = np.array([[seconds(step, options.device) for step in steps] for _ in range(options.repeats)])
    ratios = np.median(spent / spent[:, :1], axis=0)
    return float(np.median(spent[:, 0])), float(ratios[1]), float(ratios[2])


def bare_loop(
    model: nn.Module, data: TensorData, indices: torch.Tensor, options: argparse.Namespace
) -> Callable[[], None]:
    """Return a function that trains for a round as one would write it without Echelon."""
    model = model.to(options.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    inputs, labels = data.values
    kind = options.device.split(":")[0]

    def run() -> None:
        model.train()
        total = 0.0
        for batch in torch.split(indices, options.batch):
            optimizer.zero_grad()
            for part in torch.split(batch, options.minibatch):
                there = inputs[part].to(options.device), labels[part].to(options.device)
                with torch.autocast(kind, torch.bfloat16, enabled=options.precision == "bf16"):
                    loss = cross_entropy(model, there)
                (loss / options.batch).backward()
                total += loss.item()
            optimizer.step()

    return run


def seconds(step: Callable[[], object], device: str) -> float:
    """Return what a call takes: CPU seconds on the CPU, otherwise wall seconds until the device has finished."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    step()
    if device != "cpu":
        torch.accelerator.synchronize()
    return clock() - start


if __name__ == "__main__":
    main()
