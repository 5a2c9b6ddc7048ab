"""What a strategy is, on either host: from a round's small numbers to the matrix that combines the workers' models."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import networkx as nx
import numpy as np

from echelon.core.mixing import Floats, Ints, Leaders, Mixing, Pull
from echelon.core.sgd import SGD
from echelon.core.work import FullBatch, WorkPolicy

Order = Literal["adapt_then_combine", "combine_then_adapt"]
Losses = Literal["train", "held_out"]
MomentumMixing = Literal["local", "mixed", "quasi_global"]
Correction = Literal["none", "tracking"]


class Host(Protocol):
    """What a strategy may ask its host for beyond a round's numbers: small, but computed from the models.

    Only for strategies that need it: a host may have to evaluate or exchange models for the answer.
    """

    def distances(self, graph: nx.Graph) -> Floats:
        """Return ||y_j - y_i|| of the models that are to be mixed, (N, N), along the edges of a graph; 0 elsewhere."""

    def mixed_losses(self, mixing: Mixing) -> Floats:
        """Return the held-out loss of each present worker's model if it were mixed so, (N,); NaN for absent ones."""


@dataclass(frozen=True)
class RoundNumbers:
    """The small numbers of a round, by rank; where a worker was absent, counts are 0.

    Attributes
    ----------
    round : int
        From 1.
    present : int64 ndarray, shape (n,)
        Ranks that took part, ascending.
    losses : float64 ndarray, shape (N,)
        Leader signal of the latest round in which the worker took part; NaN before.
    samples : int64 ndarray, shape (N,)
        Samples processed in this round.
    mean_samples : float64 ndarray, shape (N,)
        Running mean of ``samples`` over the rounds in which the worker took part.
    shard_sizes : int64 ndarray, shape (N,)
        Samples that the worker holds; also of an absent one whose remembered gradient counts.
    batch_sizes : int64 ndarray, shape (N,)
        Samples of a full batch.
    host : Host or None
        Answers further questions; None where there are no models.
    """

    round: int
    present: Ints
    losses: Floats
    samples: Ints
    mean_samples: Floats
    shard_sizes: Ints
    batch_sizes: Ints
    host: Host | None = None

    def ask(self) -> Host:
        """Return the host.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self.host is None:
            raise ValueError("this strategy needs a host that measures distances and held-out losses; got none")
        return self.host


class Strategy(ABC):
    """How models are combined, from small numbers alone; the host holds the models and applies the result.

    A strategy is deterministic: two hosts that give it the same numbers get the same matrices. The host calls
    :meth:`lay_out` once, before the first round; in every round it calls the other methods, none of which depends on
    another one having been called.

    Parameters
    ----------
    work : WorkPolicy, optional
        How much a worker computes before it must synchronise; :class:`FullBatch` by default.
    sgd : SGD, optional
        Hyper-parameters of the workers' steps.
    seed : int
        Root of every draw.
    held_out_loss : callable, optional
        (arrays) -> loss on a shared held-out batch, for strategies that rank the workers by it; hosts pass a model as
        Flower's arrays.
    momentum_mixing : {"local", "mixed", "quasi_global"}, optional
        What becomes of momentum when models are combined. ``local``: each worker keeps its buffer. ``mixed``: the
        buffers are combined by the matrix of the models. ``quasi_global``: the host keeps a buffer m for each worker;
        the worker's steps have the direction mu m + g, and m follows the worker's model over mixing, see
        :func:`echelon.algorithms.corrections.quasi_global`. By default that of the class.
    correction : {"none", "tracking"}
        What workers add to their gradients, against the drift of unlike shards. ``tracking``: the difference between
        their neighbours' mean gradient and their own, see :func:`echelon.algorithms.corrections.tracked`.

    Attributes
    ----------
    order : {"adapt_then_combine", "combine_then_adapt"}
        X+ = W Y, or X+ = W X + (Y - X).
    momentum_mixing : {"local", "mixed", "quasi_global"}
        See above; the host carries it out.
    correction : {"none", "tracking"}
        See above; the host carries it out.
    momentum_choices, correction_choices : tuple of str
        Those of the class.
    losses : {"train", "held_out"}
        The losses that the host measures: mean training loss of the round, or loss on a shared held-out batch.
    counts_absent : bool
        Whether a remembered gradient counts while its worker is absent (``estimator=memory``): there is one model, and
        an absent worker's does not stay as it is.
    needs_server : str
        Why models cannot be combined without a server, as a clause; empty if they can.
    moves_between_rounds : bool
        Whether a server's state changes between rounds, too; a checkpoint of a round needs a copy then.
    num_workers : int
        N, once :meth:`lay_out` has been called.
    """

    order: Order = "adapt_then_combine"
    momentum_mixing: MomentumMixing = "local"
    momentum_choices: tuple[MomentumMixing, ...] = get_args(MomentumMixing)
    correction_choices: tuple[Correction, ...] = get_args(Correction)
    losses: Losses = "train"
    counts_absent: bool = False
    needs_server: str = ""
    moves_between_rounds: bool = False
    num_workers: int

    def __init__(
        self,
        *,
        work: WorkPolicy | None = None,
        sgd: SGD | None = None,
        seed: int = 0,
        held_out_loss: Callable[[Any], float] | None = None,
        momentum_mixing: MomentumMixing | None = None,
        correction: Correction = "none",
    ) -> None:
        self.work: WorkPolicy = work or FullBatch()
        self.sgd = sgd or SGD()
        self.seed = seed
        self.held_out_loss = held_out_loss
        if momentum_mixing is not None:
            _check("momentum_mixing", momentum_mixing, self.momentum_choices, type(self))
            self.momentum_mixing = momentum_mixing
        _check("correction", correction, self.correction_choices, type(self))
        self.correction: Correction = correction

    @property
    def host_momentum(self) -> float:
        """The momentum coefficient of buffers that the host keeps, mu of ``quasi_global``; 0 if there are none."""
        return self.sgd.momentum if self.momentum_mixing == "quasi_global" else 0.0

    @property
    def worker_sgd(self) -> SGD:
        """The SGD of the workers' own steps: without momentum where the host keeps it."""
        return replace(self.sgd, momentum=0.0) if self.host_momentum else self.sgd

    def lay_out(self, num_workers: int, shard_sizes: Ints) -> None:
        """Note the number of workers; a strategy with graphs lays out those of all rounds.

        Parameters
        ----------
        num_workers : int
            N.
        shard_sizes : int64 ndarray, shape (N,)
            Samples that each worker holds; 0 where that is unknown.

        Raises
        ------
        ValueError
            If the strategy cannot work with these workers.
        """
        self.num_workers = num_workers

    def neighbours(self, rank: int, round_number: int) -> list[int]:
        """Return with whom a worker averages in a round if all are present: everybody, where there is no graph."""
        return [other for other in range(self.num_workers) if other != rank]

    @property
    def remembers(self) -> bool:
        """Whether the host fills in what a worker did not finish with earlier gradients of that worker."""
        return self.work.estimator == "memory"

    @property
    def uses_momentum(self) -> str:
        """The setting, as key=value, that needs the workers' SGD and its momentum at the host; empty without one."""
        if self.remembers:
            return "work.estimator=memory"
        if self.correction != "none":
            return f"strategy.correction={self.correction}"
        return "strategy.momentum_mixing=quasi_global" if self.momentum_mixing == "quasi_global" else ""

    def check_optimizer(self, name: str, state: str) -> None:
        """Check that the workers' optimiser goes with this strategy.

        Parameters
        ----------
        name : str
            The optimiser.
        state : str
            Who keeps its state between rounds, as ``optimizer.state``.

        Raises
        ------
        ValueError
            If partial results are weighed, which a step that is not as large as the gradient does not allow, or
            :attr:`uses_momentum` and it is another optimiser than SGD, or its state stays away from the host.
        """
        is_sgd = name.lower() == "sgd"
        if self.work.estimator != "nominal" and not is_sgd:
            raise ValueError(
                f"work.estimator={self.work.estimator} needs optimizer.name=sgd, whose step is as large as the "
                f"gradient; got {name}"
            )
        if self.uses_momentum and not is_sgd:
            raise ValueError(f"{self.uses_momentum} needs optimizer.name=sgd; got {name}")
        if self.uses_momentum and state != "server":
            raise ValueError(f"{self.uses_momentum} needs optimizer.state=server; got {state}")

    @abstractmethod
    def mixing(self, numbers: RoundNumbers) -> Mixing:
        """Return how the models are combined at the end of a round."""

    def update_scales(self, numbers: RoundNumbers) -> Floats:
        """Return the factors k_i of the local updates, y_i <- x_i + k_i (y_i - x_i), in the order of ``present``."""
        ranks = numbers.present
        full = self.work.local_steps * numbers.batch_sizes
        return self.work.factors(numbers.samples[ranks], full[ranks], numbers.mean_samples[ranks])

    def update_signal(self, previous: Floats, measured: Floats) -> Floats:
        """Return the new leader signal, shape (N,), from the previous one and this round's losses (NaN: none)."""
        return np.where(np.isnan(measured), previous, measured)

    def pull(self, round_number: int, leaders: Leaders) -> Pull | None:
        """Return the force within the workers' own steps, given the leaders of the previous round; None for none."""
        return None


def _check(name: str, value: str, allowed: tuple[str, ...], strategy: type) -> None:
    if value not in allowed:
        raise ValueError(f"strategy.{name} must be {' or '.join(allowed)} with {strategy.__name__}; got {value}")
