"""RCD-SGD's partitioner: parts that each represent the whole class, by greedy submodular maximisation."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from echelon.core import memory

from ..base import Features, FloatArray, IntArray, Partitioner, check_labels
from ..quotas import quotas

if TYPE_CHECKING:
    from .kernel import Points

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
        Memory for similarities.  A class of n samples needs 4 n^2 bytes.  Above the limit, facility location divides
        the class in p equal pieces one after the other, which costs n^2 / p; f of a block is then at least the sum of
        its values in the pieces.  Graph cut computes rows on demand, with the same result, which is slower.
    jobs : int, optional
        Number of classes processed concurrently, in threads (the inner loops release the GIL).  None: as many as
        processors and `max_kernel_bytes` allow.  The result does not depend on it.
    progress : bool or callable
        Show a progress bar, or call ``progress(finished classes, classes)``.

    Raises
    ------
    ValueError
        If a parameter is out of range; when called, also if features are missing or not finite.

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
        """Raise ValueError if the similarities that are held at a time do not fit into the free memory."""
        classes, counts = np.unique(check_labels(labels), return_counts=True)
        largest = int(counts.argmax())
        held = sorted(filter(None, map(self._held_bytes, counts.tolist())), reverse=True)
        if held:
            jobs = self._jobs(held[0])
            memory.require(
                f"partitioner=submodular on class {classes[largest]} with its {counts[largest]} samples with "
                f"{min(jobs, len(held))} classes at a time",
                {"similarities": sum(held[:jobs])},
                "lower partitioner.jobs, partitioner.max_kernel_bytes or task.train_limit",
            )

    def _held_bytes(self, samples: int) -> int:
        """Return the memory for similarities of a class: all of them, those of a piece, or none."""
        if _kernel_bytes(samples) <= self.max_kernel_bytes:
            return _kernel_bytes(samples)
        return 0 if self.objective == "graph_cut" else _kernel_bytes(-(-samples // self._pieces(samples)))

    def _pieces(self, samples: int) -> int:
        """Return the least number of equal pieces whose similarities are within `max_kernel_bytes`."""
        return -(-samples // max(math.isqrt(self.max_kernel_bytes // 4), 1))

    def _jobs(self, bytes_per_class: int) -> int:
        return self.jobs or min(os.cpu_count() or 1, max(1, self.max_kernel_bytes // bytes_per_class))

    def _run(self, members: list[IntArray], features: Features, table: IntArray, shares: FloatArray) -> list[IntArray]:
        """Return the worker of each member of each class; classes run in parallel."""
        from rich.progress import track
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        largest = max(self._held_bytes(len(member)) + 4 * len(member) * features.shape[1] for member in members)
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
        from . import kernel, matrix_free  # here, because numba is slow to import and others do not need it

        owners, sizes = units(quota, shares) if self.selection == "units" else _whole(quota)
        points = kernel.embed(features[members], self.kernel)
        if _kernel_bytes(len(members)) <= self.max_kernel_bytes:
            return owners[self._blocks(points, self.bandwidth, sizes)]
        bandwidth = self.bandwidth or matrix_free.estimated_bandwidth(points)
        if self.objective == "graph_cut":
            blocks, _ = matrix_free.graph_cut(points, self.kernel, bandwidth, sizes, self.selection == "fill", self.lam)
            return owners[blocks]
        pieces = [slice(start, None, step) for step in [self._pieces(len(members))] for start in range(step)]
        blocks = np.empty(len(members), dtype=np.int64)
        # Each block's share of the pieces is whole in sum, so that its size is exact.
        shares_of_blocks = quotas([len(members[piece]) for piece in pieces], sizes / len(members))
        for piece, sizes_of_piece in zip(pieces, shares_of_blocks, strict=True):
            part = kernel.Points(points.vectors[piece], points.squares[piece])
            blocks[piece] = self._blocks(part, bandwidth, sizes_of_piece)
        return owners[blocks]

    def _blocks(self, points: "Points", bandwidth: float | None, sizes: IntArray) -> IntArray:
        """Return the block of each point, given all similarities."""
        from . import greedy, kernel

        distances = kernel.squared_distances(points)
        similarities = kernel.to_similarity(distances, self.kernel, bandwidth or kernel.median_distance(distances))
        fill = self.selection == "fill"
        if self.objective == "facility_location":
            return greedy.facility_location(similarities, sizes, fill)[0]
        return greedy.graph_cut(similarities, sizes, fill, self.lam)[0]


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
