"""What a worker's round costs on the inline engine beside a bare PyTorch loop and a hand-written `torch.func.vmap`.

    python -m benchmarks.simulation [--models mlp cnn] [--workers 10 100] [--steps 10 1] [--rounds 7] [--device cpu]

Every worker trains on `--steps` batches of `--batch` random grey images of 8 x 8, by SGD from the common model, and the
models are averaged (`AllReduce`); nothing is evaluated. The engine trains the workers of one round one after the other
(`engine.batched=false`), those of the next in one batched computation (`true`); after each such pair comes one round of
either other, so that all run under the same load. Reported are medians of milliseconds per worker and round, without
the first rounds, and of the ratios: in CPU seconds on the CPU, and in wall seconds, synchronised, on another device.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from clients import Device, Fleet, make_client_app
from echelon.engines.inline import InlineGrid
from strategies import SGD, AllReduce, FullBatch, Partition
from tasks import Shape
from tasks.models import build_model

SHAPE = Shape((1, 8, 8), 10)
LEARNING_RATE = 0.05


def small_cnn() -> nn.Module:
    """Return a network of 1,898 parameters."""
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10))


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": partial(build_model, "mlp", SHAPE), "cnn": small_cnn}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--workers", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--steps", nargs="+", type=int, default=[10, 1])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    columns = ("model", "workers", "steps", "bare loop, ms", "vmap", "inline", "batched")
    print("|", " | ".join((*columns, "inline / loop", "batched / loop", "batched / vmap")), "|")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.models:
        for workers in options.workers:
            for steps in options.steps:
                inline, batched, loop, vmapped = compare(MODELS[name], workers, steps, options)
                medians = " | ".join(f"{np.median(spent):.2f}" for spent in (loop, vmapped, inline, batched))
                pairs = ((inline, loop), (batched, loop), (batched, vmapped))
                ratios = " | ".join(f"{np.median(ours / theirs):.2f}x" for ours, theirs in pairs)
                print(f"| `{name}` | {workers} | {steps} | {medians} | {ratios} |", flush=True)


def compare(
    build: Callable[[], nn.Module], workers: int, steps: int, options: argparse.Namespace
) -> tuple[np.ndarray[Any, Any], ...]:
    """Return milliseconds per worker and round: of the engine's loop and batches, the bare loop, and `vmap`."""
    batch, rounds, device = options.batch, options.rounds, options.device
    clock = partial(now, device)
    drawn = torch.Generator().manual_seed(0)
    samples = workers * steps * batch
    data = torch.rand(samples, *SHAPE.input_shape, generator=drawn), torch.randint(10, (samples,), generator=drawn)
    shards = torch.arange(samples).view(workers, steps, batch)
    there = (data[0].to(device), data[1].to(device)), shards.to(device)
    others = [bare_loop(build().to(device), *there), hand_written(build().to(device), *there)]
    devices = Fleet((Device(1000.0),))
    app = make_client_app(lambda rank, num_workers: data, build, device=device, fleet=devices, batched=True)
    train_batch, app.train_batch = app.train_batch, None
    spent: list[list[float]] = []
    of_engine: list[float] = []
    began = 0.0

    def finished(record: Any, state: Any) -> None:
        nonlocal began
        of_engine.append(clock() - began)
        app.train_batch = None if app.train_batch else train_batch
        if app.train_batch is None:
            spent.append([*of_engine, *(seconds(step, clock) for step in others)])
            of_engine.clear()
        began = clock()

    strategy = AllReduce(
        work=FullBatch(local_steps=steps, batch_size=batch, minibatch_size=batch),
        sgd=SGD(LEARNING_RATE),
        partition=Partition([shard.reshape(-1).numpy() for shard in shards]),
        eval_every=2 * rounds + 3,
        on_round=[finished],
    )
    began = clock()
    initial = ArrayRecord(build().state_dict())
    strategy.start(InlineGrid(app, workers), initial, 2 * rounds + 2, evaluate_fn=lambda number, arrays: None)
    return tuple(1e3 * np.array(spent[1:]).T / workers)


def bare_loop(model: nn.Module, data: tuple[Tensor, Tensor], shards: Tensor) -> Callable[[], None]:
    """Return a function that trains all workers, one after the other, and averages their models."""
    inputs, labels = data

    def run() -> None:
        common = parameters_to_vector(model.parameters()).detach().clone()
        total = torch.zeros_like(common)
        for shard in shards:
            vector_to_parameters(common.clone(), model.parameters())
            optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
            order = shard.view(-1)[torch.randperm(shard.numel())]
            for indices in order.view_as(shard):
                optimizer.zero_grad()
                torch.autograd.backward(functional.cross_entropy(model(inputs[indices]), labels[indices]))
                optimizer.step()
            total += parameters_to_vector(model.parameters()).detach()
        vector_to_parameters(total / len(shards), model.parameters())

    return run


def hand_written(model: nn.Module, data: tuple[Tensor, Tensor], shards: Tensor) -> Callable[[], None]:
    """Return a function that trains all workers in one batched computation, and averages their models."""
    inputs, labels = data
    common = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(model, parameters, (x,)), y)

    gradients = vmap(grad(loss))

    def run() -> None:
        rows = {name: value.expand(len(shards), *value.shape).clone() for name, value in common.items()}
        for indices in shards.unbind(1):
            found = gradients(rows, inputs[indices], labels[indices])
            for name, row in rows.items():
                row.sub_(found[name], alpha=LEARNING_RATE)
        common.update({name: row.mean(0) for name, row in rows.items()})

    return run


def seconds(step: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return the seconds of a call."""
    start = clock()
    step()
    return clock() - start


def now(device: str) -> float:
    """Return the CPU seconds of this process on the CPU; on another device wall seconds, once it has finished."""
    if device == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
