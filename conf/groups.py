"""The keys of the groups: types, descriptions, units and ranges. Defaults are in `conf/<group>/<choice>.yaml`."""

from typing import Literal

from conf.fields import key, schema


@schema
class Task:
    """Data set."""

    name: str = key("data set")
    root: str | None = key(
        "data folder, .npz file, or for hf the name of a data set; null = `data` in the working directory"
    )
    download: bool = key("let torchvision download missing data to `task.root`")
    augment: bool = key("augment training mini-batches, if the task defines an augmentation")
    train_limit: int | None = key("maximum number of training samples, balanced over the classes", "[1, inf)")
    test_limit: int | None = key("maximum number of test samples, balanced over the classes", "[1, inf)")


@schema
class HuggingFace(Task):
    """A Hugging Face dataset of images or signals."""

    inputs: str | None = key("column of the samples; null = the only column of images or arrays")
    label: str | None = key("column of the classes; null = `label`, or the only column of class labels")
    group: str | None = key("column of the samples' groups (patients, writers, sites)")
    train_split: str = key("split to train on")
    test_split: str = key("split to test on")


@schema
class Model:
    """Model architecture."""

    name: str = key("architecture")
    init: str | None = key("safetensors file to start from, such as `models/consensus.safetensors` of a run")


@schema
class Partitioner:
    """Which data each worker holds."""

    name: str = key("rule that assigns the samples")
    ratios: Literal["equal", "fleet", "measured"] | list[float] = key(
        "share of each worker: equal, proportional to the speeds of the fleet or to those measured in the handshake, "
        "or one number per worker",
        "(0, inf)",
    )


@schema
class Dirichlet(Partitioner):
    """Label-skewed shards of random class mixes."""

    alpha: float = key("concentration per class: near 0 = one class per worker, large = class proportions", "(0, inf)")


@schema
class Shards(Partitioner):
    """Label-sorted shards."""

    classes_per_worker: int = key("number of single-class shards per worker", "[1, inf)")


@schema
class Submodular(Partitioner):
    """Blocks that each represent the whole data set (RCD-SGD)."""

    objective: Literal["facility_location", "graph_cut"] = key("set function that each block maximises")
    selection: Literal["units", "fill", "min_value"] = key(
        "rule that selects the block to extend; min_value is the rule of the paper"
    )
    kernel: Literal["gaussian", "cosine"] = key("similarity measure between samples")
    bandwidth: float | None = key(
        "bandwidth of the Gaussian kernel exp(-d^2 / bandwidth); null = median d^2 per class", "(0, inf)"
    )
    lam: float = key(
        "weight of the similarity within a block in graph cut: 1 = exact cut; monotone up to 0.5", "[0, 1]"
    )
    features: Literal["raw", "pca", "model"] = key(
        "features that represent a sample; model = output of its penultimate layer"
    )
    components: int = key("number of principal components for `features=pca`", "[1, inf)")
    model_path: str | None = key("run folder whose trained model computes the features for `features=model`")
    max_kernel_bytes: int = key(
        "memory limit for similarities; a class of n samples needs 4 n^2, a larger one is divided in pieces",
        "[1, inf)",
        unit="bytes",
    )
    jobs: int | None = key("classes processed in parallel; null = limited by cores and memory", "[1, inf)")


@schema
class File(Partitioner):
    """The partition of an earlier run."""

    path: str = key("partition.npz of an earlier run")


@schema
class Work:
    """How much a worker computes before it synchronises."""

    name: str = key("blocking (full_batch) or non-blocking (non_blocking)")
    ema: float = key("weight of the latest round in the moving average of a worker's speed", "(0, 1]")
    timeout: float = key(
        "wall-clock time after which a worker that has not replied is left out of a round, and its trainer process, "
        "if it hangs, is killed; with a budget, the wait for a round's first reply",
        "(0, inf)",
        unit="s",
    )
    max_empty_rounds: int = key(
        "attempts at a round, in a row and each without a usable reply, after which the run fails", "[1, inf)"
    )


@schema
class NonBlocking(Work):
    """Partial batches: no worker waits for stragglers."""

    trigger: Literal["fastest", "quorum", "deadline"] = key("event that ends a round")
    quorum: float = key("fraction of workers that must finish, for `trigger=quorum`", "(0, 1]")
    deadline: float | None = key("compute time per round, for `trigger=deadline`", "(0, inf)", unit="s")
    estimator: Literal["nominal", "finished", "per_worker", "expected", "memory"] = key(
        "weight of a partial gradient sum; memory = fill in what is missing with the worker's earlier gradient"
    )
    min_minibatches: int = key("minimum number of mini-batches per worker and round", "[0, inf)")
    target: Literal["full", "rest"] = key("work per round: a full batch, or the remainder of the previous batch")
    grace: float = key(
        "least wall-clock time beyond the budget after which an unresponsive worker counts as absent",
        "[0, inf)",
        unit="s",
    )
    adapt_grace: bool = key("raise the grace to 1.5 times the latency within which three quarters of the workers reply")
    fold_late: bool = key("include a late reply in the round in which it arrives, instead of discarding it")


@schema
class Strategy:
    """Which workers average their models."""

    name: str = key("averaging rule")
    max_update_norm: Literal["auto"] | float | None = key(
        "bound on the L2 norm of a worker's update; auto = twice the median of the workers' latest updates; "
        "null = none, or auto with `strategy.robust`",
        "(0, inf)",
    )
    max_update_action: Literal["clip", "reject"] = key("action for updates that exceed the bound")
    robust: bool = key(
        "bound what a few lying workers can do: max_update_norm=auto, budgets without the fastest workers, and "
        "clipping (d_psgd, matcha, al_dsgd), the gate on leaders (al_dsgd) or a trimmed mean (all_reduce)"
    )


@schema
class Asynchronous(Strategy):
    """Tasks that begin and end at different times."""

    staleness_exponent: float = key("an update of staleness s has weight (1 + s)^-exponent", "[0, inf)")
    server_learning_rate: float = key("server learning rate", "(0, inf)")


@schema
class FedBuff(Asynchronous):
    """Buffered asynchronous aggregation."""

    buffer_size: int = key("updates per server step", "[1, inf)")


@schema
class FedCompass(Asynchronous):
    """Numbers of local steps with which workers arrive in groups."""

    q_min: int = key("fewest local steps of a task", "[1, inf)")
    q_max: int = key("most local steps of a task, at least `q_min`", "[1, inf)")
    tolerance: float = key("a group expected after t seconds waits (1 + tolerance) t for its members", "[0, inf)")


@schema
class Synchronous(Strategy):
    """Averaging in rounds that all workers begin together."""

    momentum_mixing: Literal["local", "mixed", "quasi_global"] = key(
        "each worker keeps its momentum (not where there is one model), or it is averaged as the models are, at twice "
        "the traffic, or the server keeps one that follows the worker's model over mixing"
    )
    correction: Literal["none", "tracking"] = key(
        "what workers add to their gradients: tracking = their neighbours' mean gradient minus their own, at twice the "
        "traffic (SCAFFOLD, gradient tracking)"
    )


@schema
class OverSelection(Synchronous):
    """Averages the first replies and drops the others."""

    keep: float = key("fraction of workers whose replies are awaited", "(0, 1]")


@schema
class Decentralised(Synchronous):
    """Averaging along the edges of the topology."""

    order: Literal["adapt_then_combine", "combine_then_adapt"] = key("X+ = W Y, or X+ = W X + (Y - X)")


@schema
class DPSGD(Decentralised):
    """D-PSGD: all edges, every round."""

    mixing: Literal["metropolis", "uniform", "laplacian", "target"] = key(
        "mixing matrix; target = weights proportional to shard sizes"
    )


@schema
class Matcha(Decentralised):
    """MATCHA: random matchings under a communication budget."""

    communication_budget: float = key("expected fraction of active matchings", "(0, 1]")


@schema
class ALDSGD(DPSGD, Matcha):
    """AL-DSGD: leader weights and corrective forces applied to a base rule."""

    base: Literal["d_psgd", "matcha"] = key("base rule; mixing applies to d_psgd, communication_budget to matcha")
    c1: float = key("weight of the neighbour with the lowest loss", "[0, 1)")
    c2: float | None = key("weight of the neighbour with the highest degree; null = 0.1, or 0 with the gate", "[0, 1)")
    p1: float = key("force towards the neighbour with the lowest loss", "[0, 1)")
    p2: float | None = key(
        "force towards the neighbour with the highest degree; null = 0.1, or 0 with the gate", "[0, 1)"
    )
    every: int = key("apply leader weights every n rounds", "[1, inf)", unit="rounds")
    decay: float = key("factor applied to c and p after every round", "(0, 1]")
    signal: Literal["train_loss", "ema", "held_out", "random"] = key(
        "loss that determines the leaders; random = drawn in every round, as a control"
    )
    gate: bool | None = key(
        "follow a leader only if its held-out loss is below that of the worker's own mixed model, "
        "with `strategy.signal=held_out`; null = wherever that is possible"
    )
    force: Literal["after_mixing", "in_step"] = key(
        "apply the corrective force after mixing, or within the local steps"
    )
    degree: Literal["base", "active"] = key("count all edges of the round's graph, or only active ones")


@schema
class Topology:
    """Communication graph."""

    name: str = key("graph of the workers")
    schedule: Literal["static", "rotation", "random_matching", "one_peer", "legacy_alternating"] | None = key(
        "one fixed graph, relabelled copies in turn, a random matching per round, pairs that average exactly over a "
        "period (they need not be edges of the graph), or the bug of the released code; null = static, but rotation "
        "for g0_rotating"
    )
    rotate: int = key("number of copies in a rotation", "[1, inf)")


@schema
class ErdosRenyi(Topology):
    """Random edges."""

    p: float = key("edge probability", "[0, 1]")


@schema
class Geometric(Topology):
    """Random points in the unit square."""

    radius: float = key("maximum distance between neighbours", "[0, inf)")


@schema
class Regular(Topology):
    """Random graph of equal degrees."""

    degree: int = key("number of neighbours of each worker", "[0, inf)")


@schema
class Edges(Topology):
    """Explicit edges."""

    edges: list[list[int]] = key("pairs of ranks, such as [[0,1],[1,2]]")


@schema
class Jitter:
    """Random factor on the duration of each mini-batch."""

    kind: Literal["none", "shifted_exponential", "log_normal", "slowdown"] = key("distribution of the factor")
    scale: float = key("mean of the exponential or sigma of the log-normal distribution", "[0, inf)")
    probability: float = key("probability of a slowdown", "[0, 1]")
    factor: float = key("factor of a slowdown", "[1, inf)")


@schema
class Churn:
    """Workers that leave and return."""

    leave_probability: float = key("per round, for an online worker", "[0, 1]")
    return_probability: float = key("per round, for an offline worker", "[0, 1]")


@schema
class Fleet:
    """The devices of a simulation."""

    name: str = key("device profile")
    jitter: Jitter = key("random factor on the duration of each mini-batch")
    churn: Churn = key("workers that leave and return")


@schema
class Pattern(Fleet):
    """Devices with a repeating pattern of speeds."""

    samples_per_second: float = key("speed of the reference device", "(0, inf)", unit="samples/s")
    speeds: list[float] = key("speeds by rank relative to the reference, repeated for further workers", "(0, inf)")
    latency_seconds: float = key("network latency of a device", "[0, inf)", unit="s")
    bandwidth_bits_per_second: float = key("network bandwidth of a device", "(0, inf)", unit="bit/s")


@schema
class Trace(Fleet):
    """Devices from a table."""

    path: str = key("CSV: rank, samples_per_second, latency_seconds, bandwidth_bits_per_second[, on/off_seconds]")


@schema
class Engine:
    """Simulation engine."""

    name: str = key("Flower's simulation engine on Ray, in-process, or peer to peer")


@schema
class Batching(Engine):
    """Engines of which one process trains several workers."""

    batched: Literal["auto"] | bool = key(
        "train the workers of a process in one batched computation: auto = where that is faster, decided by the model "
        "and the round, not by measured times; what cannot be batched is trained one worker after the other"
    )


@schema
class Inline(Batching):
    """All workers in this process."""


@schema
class Ray(Batching):
    """Flower's simulation engine."""

    num_cpus: float = key("cores per worker process", "(0, inf)")
    num_gpus: float = key("fraction of a GPU per worker process", "[0, inf)")
    address: str | None = key("running Ray cluster to join, host:port; null = a Ray of its own on this machine")
    window: int | None = key("maximum messages in flight; null = derived from the number of processes", "[1, inf)")


@schema
class Torch(Engine):
    """Processes of torch.distributed."""

    processes: int | None = key(
        "worker processes; null = those of torchrun, or one per worker, with a simulated clock at most one per core "
        "or, on GPUs, per GPU",
        "[1, inf)",
    )
    timeout: float = key(
        "seconds that a process may be later than the others, or stopped, before it is ended and started again",
        "(0, inf)",
    )
