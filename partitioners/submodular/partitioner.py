"""RCD: shards that each represent the whole class, by greedy submodular maximisation."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..base import FloatArray, IntArray, check_features, check_labels, check_ratios
from ..quotas import quotas

Objective = Literal["facility_location", "graph_cut"]
Selection = Literal["units", "fill", "min_value"]


@dataclass(frozen=True)
class SubmodularPartitioner:
    """Divide each class so that every worker's share of it represents it, in sizes that follow the ratios.

    While samples of a class are left, a block below its size receives the sample v that most increases f(A + v) - f(A),
    f being facility location (every sample of the class has something similar in A) or graph cut (A is as similar as
    possible to what is outside it, and little to itself).  Quotas per class, and totals, are within one sample of their
    shares.  The pooled samples must be visible to whoever partitions.  Nothing is drawn at random.

    Parameters
    ----------
    objective : "facility_location" or "graph_cut"
    selection : "units", "fill" or "min_value"
        Which block is served next.  `units`: each worker holds as many equal blocks as its ratio is a multiple of the
        smallest (and one shorter block for the rest), and the block of smallest f is served; the worker's blocks are
        then joined.  `fill`: one block per worker, the least filled is served.  `min_value`: one block per worker, that
        of smallest f is served; the paper's rule, which represents classes worse than chance once ratios differ.
    bandwidth : float, optional
        Of the Gaussian kernel exp(-|v - u|^2 / bandwidth).  None: the median squared distance within the class.
    lam : float
        Weight of the similarity inside a block in the graph cut, in [0, 1]: 1 is the cut itself, up to 1/2 f is
        monotone.
    kernel : "gaussian" or "cosine"
    max_kernel_bytes : int
        Memory for similarities.  A class with n samples needs 4 n^2 bytes, or fails with facility location; graph cut
        then computes rows when it needs them, which is slower.
    jobs : int, optional
        Classes handled at once, in threads (the work releases the GIL).  None: as many as processors and
        `max_kernel_bytes` allow.  The result does not depend on it.
    progress : bool or callable
        Show a progress bar, or call ``progress(classes done, classes)``.

    References
    ----------
    He and Dube 2023, "RCD-SGD", arXiv 2211.00839, Algorithm 1.
    """

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

    def __call__(
        self,
        labels: npt.ArrayLike,
        ratios: Sequence[float],
        rng: np.random.Generator,
        features: npt.ArrayLike | None = None,
    ) -> list[IntArray]:
        """See `partitioners.base.Partitioner`; `features` are required, `rng` is not used.

        Raises
        ------
        ValueError
            Also if features are missing or not finite, or a class is too large for `max_kernel_bytes`.
        """
        classes, counts = np.unique(checked := check_labels(labels), return_counts=True)
        shares = check_ratios(ratios)
        rows = check_features(features, len(checked))
        self._check_memory(classes, counts)
        members = [np.flatnonzero(checked == label) for label in classes]
        owners = self._run(members, rows, quotas(counts, shares), shares)
        owner = np.empty(len(checked), dtype=np.int64)
        for member, mine in zip(members, owners, strict=True):
            owner[member] = mine
        return [np.flatnonzero(owner == rank) for rank in range(len(shares))]

    def _check_memory(self, classes: IntArray, counts: IntArray) -> None:
        largest = int(counts.argmax())
        if (
            self.objective == "facility_location"
            and (need := _kernel_bytes(int(counts[largest]))) > self.max_kernel_bytes
        ):
            raise ValueError(
                f"partitioner.max_kernel_bytes is {self.max_kernel_bytes}, but class {classes[largest]} with its "
                f"{counts[largest]} samples needs {need} for facility location: raise it if there is the memory, or "
                "set partitioner.objective=graph_cut, which does without"
            )

    def _run(
        self, members: list[IntArray], rows: npt.NDArray[np.generic], table: IntArray, shares: FloatArray
    ) -> list[IntArray]:
        """Return the workers of the members of each class, classes in parallel."""
        from rich.progress import track
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        largest = max(_kernel_bytes(len(member)) + 4 * len(member) * rows.shape[1] for member in members)
        jobs = self.jobs or min(os.cpu_count() or 1, max(1, self.max_kernel_bytes // largest))
        task = partial(self._divide, rows=rows, shares=shares)
        # One BLAS thread: how a product is split among threads may decide its last bits, and so ties.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(min(jobs, len(members))) as pool:
            done = pool.map(task, members, table)
            if not callable(self.progress):
                return list(
                    track(done, "Partitioning classes", len(members), transient=True, disable=not self.progress)
                )
            owners: list[IntArray] = []
            for owner in done:
                owners.append(owner)
                self.progress(len(owners), len(members))
            return owners

    def _divide(
        self, members: IntArray, quota: IntArray, rows: npt.NDArray[np.generic], shares: FloatArray
    ) -> IntArray:
        """Return the worker of each member of one class."""
        from . import greedy, kernel, matrix_free  # compiles: not for those who only want another partitioner

        owners, sizes = units(quota, shares) if self.selection == "units" else _whole(quota)
        fill = self.selection == "fill"
        points = kernel.embed(rows[members], self.kernel)
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
    """Split the quotas of one class into equal blocks, as many per worker as its share is a multiple of the smallest.

    Parameters
    ----------
    quota : (N,) int64 array
        Samples of the class for each worker.
    shares : (N,) array

    Returns
    -------
    owners : (B,) int64 array
        Worker of each block, ascending.
    sizes : (B,) int64 array
        Samples of each block, at least 1.  A worker whose share is no multiple has one shorter block; blocks differ by
        one sample where quotas are rounded.
    """
    held = shares / shares[quota > 0].min()
    owners, sizes = [], []
    for rank in np.flatnonzero(quota):
        whole = int(min(held[rank] + 1e-9, quota[rank]))
        rest = min(held[rank] - whole, 1.0)
        weights = np.append(np.ones(whole), [rest] if rest > 1e-9 else [])
        blocks = quotas(quota[[rank]], weights / weights.sum())[0]
        sizes.append(blocks[blocks > 0])
        owners.append(np.full(len(sizes[-1]), rank))
    return np.concatenate(owners), np.concatenate(sizes)


def _whole(quota: IntArray) -> tuple[IntArray, IntArray]:
    """Return one block per worker, like `units`."""
    owners = np.flatnonzero(quota)
    return owners, quota[owners]


def _kernel_bytes(samples: int) -> int:
    return 4 * samples**2
