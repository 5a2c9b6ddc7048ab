"""RCD-SGD's partitioner: parts that each represent the whole class, by greedy submodular maximisation."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from echelon.core import memory

from ..base import Features, FloatArray, IntArray, Partitioner, check_labels
from ..quotas import quotas

Objective = Literal["facility_location", "graph_cut"]
Selection = Literal["units", "fill", "min_value"]


@dataclass(frozen=True)
class SubmodularPartitioner(Partitioner):
    """Divide each class so that every worker's share of it represents it, in sizes that follow the ratios.

    While samples of a class remain, a block A below its size receives the sample v with the largest gain
    f(A + v) - f(A), where f is facility location (every sample of the class is similar to one in A) or graph cut (A is
    similar to the samples outside it, and its samples are dissimilar to each other).  Quotas per class, and totals, are
    within one sample of their shares.  The process that partitions must see the pooled samples.  Nothing is drawn at
    random.

    Parameters
    ----------
    objective : "facility_location" or "graph_cut"
        The function f.
    selection : "units", "fill" or "min_value"
        Which block receives the next sample.  `units`: each worker has as many equal blocks as its ratio is a multiple
        of the smallest ratio (and one shorter block for the remainder), the block of smallest f is next, and a worker's
        blocks are joined at the end.  `fill`: one block per worker, the least filled block is next.  `min_value`: one
        block per worker, the block of smallest f is next; this is the paper's rule, which represents classes worse than
        chance when ratios differ.
    bandwidth : float, optional
        Bandwidth of the Gaussian kernel exp(-|v - u|^2 / bandwidth).  None: the median squared distance within the
        class.
    lam : float
        Weight of the similarity within a block in the graph cut, in [0, 1]: 1 gives the cut itself; up to 1/2, f is
        monotone.
    kernel : "gaussian" or "cosine"
        Similarity of two samples.
    max_kernel_bytes : int
        Memory for similarities.  A class of n samples needs 4 n^2 bytes.  Above the limit facility location raises an
        error, and graph cut computes rows on demand, which is slower.
    jobs : int, optional
        Number of classes processed concurrently, in threads (the inner loops release the GIL).  None: as many as
        processors and `max_kernel_bytes` allow.  The result does not depend on it.
    progress : bool or callable
        Show a progress bar, or call ``progress(finished classes, classes)``.

    Raises
    ------
    ValueError
        If a parameter is out of range; when called, also if features are missing or not finite, or if a class is too
        large for `max_kernel_bytes` or the free memory.

    References
    ----------
    He and Dube 2023, "RCD-SGD", arXiv 2211.00839, Algorithm 1.

    Examples
    --------
    Each worker gets one sample of each of the two clusters:

    >>> import numpy as np
    >>> from echelon.partitioners import SubmodularPartitioner
    >>> features = np.array([[0.0], [1.0], [8.0], [10.0]])
    >>> SubmodularPartitioner()([0, 0, 0, 0], [1, 1], np.random.default_rng(0), features)
    [array([0, 2]), array([1, 3])]
    """

    needs_features: ClassVar[bool] = True

    objective: Objective = "facility_location"
    selection: Selection = "units"
    bandwidth: float | None = None
    lam: float = 1.0
    kernel: Literal["gaussian", "cosine"] = "gaussian"
    max_kernel_bytes: int = 1 << 30
    jobs: int | None = None
    progress: bool | Callable[[int, int], None] = False

    def __post_init__(self) -> None:
        for key, allowed in (
            ("objective", Objective),
            ("selection", Selection),
            ("kernel", Literal["gaussian", "cosine"]),
        ):
            if (value := getattr(self, key)) not in get_args(allowed):
                raise ValueError(f"partitioner.{key} must be one of {', '.join(get_args(allowed))}; got {value!r}")
        if self.bandwidth is not None and not (np.isfinite(self.bandwidth) and self.bandwidth > 0):
            raise ValueError(f"partitioner.bandwidth must be positive and finite, or null; got {self.bandwidth}")
        if not 0 <= self.lam <= 1:
            raise ValueError(f"partitioner.lam must lie in [0, 1]; got {self.lam}")
        for key in ("max_kernel_bytes", "jobs"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"partitioner.{key} must be at least 1; got {value}")

    def _partition(
        self, labels: IntArray, shares: FloatArray, rng: np.random.Generator, features: Features | None
    ) -> list[IntArray]:
        assert features is not None  # `needs_features`
        classes, counts = np.unique(labels, return_counts=True)
        members = [np.flatnonzero(labels == label) for label in classes]
        owners = self._run(members, features, quotas(counts, shares), shares)
        owner = np.empty(len(labels), dtype=np.int64)
        for member, ranks in zip(members, owners, strict=True):
            owner[member] = ranks
        return [np.flatnonzero(owner == rank) for rank in range(len(shares))]

    def check_memory(self, labels: npt.ArrayLike, num_workers: int) -> None:
        """Raise ValueError if the similarities of the classes do not fit into `max_kernel_bytes` or the free memory."""
        classes, counts = np.unique(check_labels(labels), return_counts=True)
        largest = int(counts.argmax())
        need = _kernel_bytes(int(counts[largest]))
        subject = f"class {classes[largest]} with its {counts[largest]} samples"
        if self.objective == "facility_location" and need > self.max_kernel_bytes:
            raise ValueError(
                f"partitioner.max_kernel_bytes is {self.max_kernel_bytes}, but {subject} needs {need} for facility "
                "location: raise it if there is the memory, or set partitioner.objective=graph_cut, which does without"
            )
        held = sorted(
            (size for size in map(_kernel_bytes, counts.tolist()) if size <= self.max_kernel_bytes), reverse=True
        )
        if held:
            jobs = self._jobs(held[0])
            memory.require(
                f"partitioner=submodular on {subject} with {min(jobs, len(held))} classes at a time",
                {"similarities": sum(held[:jobs])},
                "lower partitioner.jobs or task.train_limit, or set partitioner.objective=graph_cut and a lower "
                "partitioner.max_kernel_bytes",
            )

    def _jobs(self, bytes_per_class: int) -> int:
        return self.jobs or min(os.cpu_count() or 1, max(1, self.max_kernel_bytes // bytes_per_class))

    def _run(self, members: list[IntArray], features: Features, table: IntArray, shares: FloatArray) -> list[IntArray]:
        """Return the worker of each member of each class; classes run in parallel."""
        from rich.progress import track
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        largest = max(_kernel_bytes(len(member)) + 4 * len(member) * features.shape[1] for member in members)
        task = partial(self._divide, features=features, shares=shares)
        # One BLAS thread: how a product is split among threads can change its last bits, and so break ties differently.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(min(self._jobs(largest), len(members))) as pool:
            results = pool.map(task, members, table)
            if not callable(self.progress):
                return list(
                    track(results, "Partitioning classes", len(members), transient=True, disable=not self.progress)
                )
            owners: list[IntArray] = []
            for owner in results:
                owners.append(owner)
                self.progress(len(owners), len(members))
            return owners

    def _divide(self, members: IntArray, quota: IntArray, features: Features, shares: FloatArray) -> IntArray:
        """Return the worker of each member of one class."""
        from . import greedy, kernel, matrix_free  # here, because numba is slow to import and others do not need it

        owners, sizes = units(quota, shares) if self.selection == "units" else _whole(quota)
        fill = self.selection == "fill"
        points = kernel.embed(features[members], self.kernel)
        if _kernel_bytes(len(members)) > self.max_kernel_bytes:
            bandwidth = self.bandwidth or matrix_free.estimated_bandwidth(points)
            blocks, _ = matrix_free.graph_cut(points, self.kernel, bandwidth, sizes, fill, self.lam)
            return owners[blocks]
        distances = kernel.squared_distances(points)
        bandwidth = self.bandwidth or kernel.median_distance(distances)
        similarities = kernel.to_similarity(distances, self.kernel, bandwidth)
        if self.objective == "facility_location":
            blocks, _ = greedy.facility_location(similarities, sizes, fill)
        else:
            blocks, _ = greedy.graph_cut(similarities, sizes, fill, self.lam)
        return owners[blocks]


def units(quota: IntArray, shares: FloatArray) -> tuple[IntArray, IntArray]:
    """Split the quotas of one class into equal blocks: per worker, its share as a multiple of the smallest share.

    Parameters
    ----------
    quota : (N,) int64 array
        Samples of the class for each worker.
    shares : (N,) array
        Share of each worker, positive.

    Returns
    -------
    owners : (B,) int64 array
        Worker of each block, ascending.
    sizes : (B,) int64 array
        Samples of each block, at least 1.  A worker whose share is not a whole multiple has one shorter block; blocks
        differ by one sample where quotas are rounded.
    """
    multiples = shares / shares[quota > 0].min()
    owners, sizes = [], []
    for rank in np.flatnonzero(quota):
        whole = int(min(multiples[rank] + 1e-9, quota[rank]))
        remainder = min(multiples[rank] - whole, 1.0)
        weights = np.append(np.ones(whole), [remainder] if remainder > 1e-9 else [])
        blocks = quotas(quota[[rank]], weights / weights.sum())[0]
        sizes.append(blocks[blocks > 0])
        owners.append(np.full(len(sizes[-1]), rank))
    return np.concatenate(owners), np.concatenate(sizes)


def _whole(quota: IntArray) -> tuple[IntArray, IntArray]:
    """Return one block per worker, in the form that `units` returns."""
    owners = np.flatnonzero(quota)
    return owners, quota[owners]


def _kernel_bytes(samples: int) -> int:
    return 4 * samples**2
