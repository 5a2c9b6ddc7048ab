"""The groups' keys: types, meanings, units and ranges. The default values stand in `conf/<group>/<choice>.yaml`."""

from typing import Literal

from conf.fields import key, schema


@schema
class Task:
    """What is learnt."""

    name: str = key("data set")
    root: str | None = key("folder of the data, or the .npz file; null = `data` in the working directory")
    download: bool = key("let torchvision bring the data to `task.root` if it is not there")
    augment: bool = key("augment training mini-batches, where the task has an augmentation")
    train_limit: int | None = key("keep at most so many training samples, balanced over the classes", "[1, inf)")
    test_limit: int | None = key("keep at most so many test samples, balanced over the classes", "[1, inf)")


@schema
class Model:
    """The network."""

    name: str = key("architecture")


@schema
class Partitioner:
    """What data a worker holds."""

    name: str = key("rule that assigns the samples")
    ratios: Literal["equal", "fleet", "measured"] | list[float] = key(
        "shares of the workers: equal, in proportion to the speeds of the fleet or to those measured in the handshake, "
        "or one number per worker",
        "(0, inf)",
    )


@schema
class Dirichlet(Partitioner):
    """Label-skewed shards of random class mixes."""

    alpha: float = key("concentration per class: near 0 one class per worker, large = class proportions", "(0, inf)")


@schema
class Shards(Partitioner):
    """Label-sorted shards."""

    classes_per_worker: int = key("shards, of one class each, that a worker gets", "[1, inf)")


@schema
class Submodular(Partitioner):
    """Blocks that each represent the whole (RCD-SGD)."""

    objective: Literal["facility_location", "graph_cut"] = key("set function that every block maximises")
    selection: Literal["units", "fill", "min_value"] = key(
        "which block takes the next sample; min_value is the paper's"
    )
    kernel: Literal["gaussian", "cosine"] = key("similarity of two samples")
    bandwidth: float | None = key(
        "of the Gaussian kernel exp(-d^2 / bandwidth); null = median d^2 per class", "(0, inf)"
    )
    lam: float = key("similarity inside a block in the graph cut: 1 = the cut, up to 0.5 it is monotone", "[0, 1]")
    features: Literal["raw", "pca", "model"] = key("what samples are compared by; model = its penultimate layer")
    components: int = key("principal components of `features=pca`", "[1, inf)")
    model_path: str | None = key("run folder whose trained model gives the features of `features=model`")
    max_kernel_bytes: int = key("memory for similarities; a class of n samples needs 4 n^2", "[1, inf)", unit="bytes")
    jobs: int | None = key("classes handled at a time; null = as many as cores and memory allow", "[1, inf)")


@schema
class File(Partitioner):
    """The partition of an earlier run."""

    path: str = key("partition.npz of an earlier run")


@schema
class Work:
    """How much a worker computes before it must synchronise."""

    name: str = key("blocking (full_batch) or not (non_blocking)")
    ema: float = key("weight of the newest round in the estimate of a worker's speed", "(0, 1]")


@schema
class NonBlocking(Work):
    """Partial batches: nobody waits for a straggler."""

    trigger: Literal["fastest", "quorum", "deadline"] = key("what ends a round")
    quorum: float = key("fraction of the workers that must finish, for `trigger=quorum`", "(0, 1]")
    deadline: float | None = key("computing time of a round, for `trigger=deadline`", "(0, inf)", unit="s")
    estimator: Literal["nominal", "finished", "per_worker", "expected"] = key("weight of a partial gradient sum")
    min_minibatches: int = key("mini-batches that even the slowest worker finishes", "[0, inf)")
    target: Literal["full", "rest"] = key("aim at a whole batch each round, or first at the rest of the old one")
    grace: float = key(
        "real time past the budget after which a silent worker is absent this round", "[0, inf)", unit="s"
    )
    fold_late: bool = key("count a late reply in the round in which it arrives, instead of discarding it")


@schema
class Strategy:
    """With whom a worker averages."""

    name: str = key("rule of averaging")
    max_update_norm: float | None = key("bound on the L2 norm of a worker's update; null = none", "(0, inf)")
    max_update_action: Literal["clip", "reject"] = key("what to do with a longer update")


@schema
class FedBuff(Strategy):
    """Buffered asynchronous aggregation."""

    buffer_size: int = key("updates that make one step of the server", "[1, inf)")
    staleness_exponent: float = key("an update that is s steps old counts (1 + s)^-exponent", "[0, inf)")
    server_learning_rate: float = key("step size of the server", "(0, inf)")


@schema
class OverSelection(Strategy):
    """Averages the first replies and drops the rest."""

    keep: float = key("fraction of the workers whose replies are awaited", "(0, 1]")


@schema
class Decentralised(Strategy):
    """Averaging along the edges of the topology."""

    order: Literal["adapt_then_combine", "combine_then_adapt"] = key("X+ = W Y, or X+ = W X + (Y - X)")


@schema
class DPSGD(Decentralised):
    """D-PSGD: all edges, every round."""

    mixing: Literal["metropolis", "uniform", "laplacian", "target"] = key(
        "mixing matrix; target = weights of the shards' sizes"
    )


@schema
class Matcha(Decentralised):
    """MATCHA: random matchings under a communication budget."""

    communication_budget: float = key("share of the matchings active in the mean", "(0, 1]")


@schema
class ALDSGD(DPSGD, Matcha):
    """AL-DSGD: leader weights and corrective forces on top of a base rule."""

    base: Literal["d_psgd", "matcha"] = key("rule under the leaders; mixing belongs to d_psgd, the budget to matcha")
    c1: float = key("weight of the neighbour with the lowest loss", "[0, 1)")
    c2: float = key("weight of the neighbour with the highest degree", "[0, 1)")
    p1: float = key("force towards the neighbour with the lowest loss", "[0, 1)")
    p2: float = key("force towards the neighbour with the highest degree", "[0, 1)")
    every: int = key("apply leaders each so many rounds", "[1, inf)", unit="rounds")
    decay: float = key("factor on c and p after every round", "(0, 1]")
    signal: Literal["train_loss", "ema", "held_out"] = key("loss that makes a leader")
    force: Literal["after_mixing", "in_step"] = key("pull after mixing, or within the worker's own steps")
    degree: Literal["base", "active"] = key("degrees in the round's graph, or among the edges that are active")


def is_matcha(strategy: Strategy) -> bool:
    """Return whether MATCHA's matchings decide who averages, be it under leaders."""
    return strategy.base == "matcha" if isinstance(strategy, ALDSGD) else isinstance(strategy, Matcha)


@schema
class Topology:
    """Who is a neighbour of whom."""

    name: str = key("graph on the workers")
    schedule: Literal["static", "rotation", "random_matching", "legacy_alternating"] = key(
        "the same graph always, relabelled copies in turn, one random matching a round, or the released code's fault"
    )
    rotate: int = key("copies of a rotation", "[1, inf)")


@schema
class ErdosRenyi(Topology):
    """Random edges."""

    p: float = key("probability of an edge", "[0, 1]")


@schema
class Geometric(Topology):
    """Random places in the unit square."""

    radius: float = key("distance up to which two workers are neighbours", "[0, inf)")


@schema
class Regular(Topology):
    """Random graph of equal degrees."""

    degree: int = key("neighbours of every worker", "[0, inf)")


@schema
class Edges(Topology):
    """Explicit edges."""

    edges: list[list[int]] = key("pairs of ranks, such as [[0,1],[1,2]]")


@schema
class Jitter:
    """Random factor on the time of every mini-batch."""

    kind: Literal["none", "shifted_exponential", "log_normal", "slowdown"] = key("distribution of the factor")
    scale: float = key("mean of the exponential, or sigma of the normal", "[0, inf)")
    probability: float = key("of a slowdown", "[0, 1]")
    factor: float = key("of a slowdown", "[1, inf)")


@schema
class Churn:
    """Workers that leave and come back."""

    leave_probability: float = key("per round, of a worker that is there", "[0, 1]")
    return_probability: float = key("per round, of a worker that is away", "[0, 1]")


@schema
class Fleet:
    """The devices of a simulation."""

    name: str = key("profile of the devices")
    jitter: Jitter = key("random factor on the time of every mini-batch")
    churn: Churn = key("workers that leave and come back")


@schema
class Pattern(Fleet):
    """Devices whose speeds repeat in a pattern."""

    samples_per_second: float = key("speed of the reference device", "(0, inf)", unit="samples/s")
    speeds: list[float] = key("relative to the reference, by rank; repeated if there are more workers", "(0, inf)")
    latency_seconds: float = key("latency of a device's network", "[0, inf)", unit="s")
    bandwidth_bits_per_second: float = key("bandwidth of a device's network", "(0, inf)", unit="bit/s")


@schema
class Trace(Fleet):
    """Devices from a table."""

    path: str = key("CSV: rank, samples_per_second, latency_seconds, bandwidth_bits_per_second[, on/off_seconds]")


@schema
class Engine:
    """What runs the workers of a simulation."""

    name: str = key("Flower's simulation on Ray, or all in this process")


@schema
class Ray(Engine):
    """Flower's simulation engine."""

    num_cpus: float = key("cores per worker process", "(0, inf)")
    num_gpus: float = key("share of a GPU per worker process", "[0, inf)")
    window: int | None = key("messages under way at a time; null = chosen from the number of processes", "[1, inf)")
