"""Lower bounds on the memory of a run on the server, compared with what is free before anything is allocated.

They count only what certainly exists at the same time, so that nothing that fits is refused.
"""

import math
from collections import Counter
from collections.abc import Callable

import torch

import tasks
from conf import Config, groups
from echelon.core import memory
from tasks import Shape, Task

# Bytes that networkx takes at least, as measured with its version 3.6.
_NODE, _EDGE = 250, 150
# Bytes of a worker beside its model: seven numbers in the tally, the size of its shard, and the id of its node.
_WORKER = 7 * 8 + 8 + 40


def _of_a_path(n: int, topology: groups.Topology) -> float:
    return n - 1


# Edges of the graphs with more edges than a path has; a graph of another name has at least these.
_EDGES: dict[str, Callable[[int, groups.Topology], float]] = {
    "torus": lambda n, _: 2 * n,
    "complete": lambda n, _: n * (n - 1) / 2,
    "er": lambda n, chosen: n * (n - 1) / 2 * vars(chosen)["p"],
    "geometric": lambda n, chosen: n * (n - 1) / 2 * min(1, min(2, vars(chosen)["radius"]) ** 2 * math.pi / 4),
    "regular": lambda n, chosen: n * min(n - 1, vars(chosen)["degree"]) / 2,
    "exponential": lambda n, _: n * (math.log2(n) - 1),
    "auto": lambda n, _: n * (math.log2(n) - 1),
    "edges": lambda _, chosen: len(vars(chosen)["edges"]),
}


def require_graphs(config: Config) -> None:
    """Raise ValueError if the graphs and mixing matrices of N workers do not fit into the free memory."""
    n, matrix = config.workers, 8 * config.workers**2
    subject, remedy = f"workers={n}", "lower workers"
    if config.strategy.name in ("all_reduce", "over_selection"):  # neither a graph nor a matrix, but a mean
        memory.require(subject, {"numbers of the workers": _WORKER * n}, remedy)
        return
    graphs, matrices = 1, 1  # of a round
    edges = 0.0
    if isinstance(config.strategy, groups.Decentralised):
        topology = config.topology
        subject, remedy = f"{subject} with topology={topology.name}", "lower workers or the number of edges"
        edges = _EDGES.get(topology.name, _of_a_path)(n, topology)
        if topology.schedule == "rotation":
            graphs = topology.rotate
            subject, remedy = f"{subject} and topology.rotate={graphs}", f"{remedy}, or lower topology.rotate"
        matchings = _largest_degree(n, edges, topology) if _draws_matchings(config.strategy) else 1
        matrices += graphs * matchings
    needs = {"graphs": graphs * int(_NODE * n + _EDGE * edges), "mixing matrices": matrices * matrix}
    memory.require(subject, needs, remedy)


def require_rows(config: Config, shape: Shape, share: float = 1.0) -> None:
    """Raise ValueError if the models of N workers, or a share of them, do not fit into this machine's free memory."""
    with torch.device("meta"):  # a model without values
        values = tasks.build_model(config.model.name, shape).state_dict().values()
    models = int(share * 4 * config.workers * sum(value.numel() for value in values))
    needs = {"models": models, "updates of a round": models}
    if vectors := _state_vectors(config):
        needs |= {"optimisers": vectors * models, "optimisers of a round": vectors * models}
    subject = f"model={config.model.name} for workers={config.workers}"
    memory.require(subject, needs, "choose a smaller model, fewer workers or optimizer.state=reset")


def require_batches(config: Config, shape: Shape) -> None:
    """Raise ValueError if a round's samples of one worker, on this machine, do not fit into the free memory."""
    steps, batch, minibatch = config.local_steps, config.batch_size, config.minibatch_size
    needs = {"indices": 8 * steps * batch, "a mini-batch": 4 * minibatch * math.prod(shape.input_shape)}
    subject = f"batch_size={batch} with local_steps={steps} and minibatch_size={minibatch}"
    memory.require(subject, needs, "lower them")


def require_features(config: Config, task: Task) -> None:
    """Raise ValueError if the samples, as the features that partitions are made and measured by, do not fit."""
    count = 4 * len(task.train) * math.prod(task.input_shape)
    subject = f"task={config.task.name} of {len(task.train)} samples"
    memory.require(subject, {"features": count, "features of the workers' samples": count}, "lower task.train_limit")


def _state_vectors(config: Config) -> int:
    """Return how many vectors as large as a model the server keeps of each worker's optimiser."""
    if config.optimizer.state != "server":
        return 0
    momentum = int(config.momentum > 0)
    tracking = isinstance(config.strategy, groups.Synchronous) and config.strategy.correction == "tracking"
    memory = isinstance(config.work, groups.NonBlocking) and config.work.estimator == "memory"
    return {"sgd": momentum + tracking + memory, "rmsprop": 1 + momentum, "adagrad": 1}.get(config.optimizer.name, 2)


def _draws_matchings(strategy: groups.Decentralised) -> bool:
    base = strategy.base if isinstance(strategy, groups.ALDSGD) else strategy.name
    return base == "matcha"


def _largest_degree(n: int, edges: float, topology: groups.Topology) -> int:
    """Return a lower bound on the number of matchings: the largest degree, or the mean one where it is not known."""
    if topology.name == "star":
        return n - 1
    if isinstance(topology, groups.Edges):
        return max(Counter(rank for edge in topology.edges for rank in edge).values(), default=0)
    return int(2 * edges / n)
