"""Training with neighbours in a loop of one's own: mini-batches within the round's budget, and models that mix."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from flwr.app import ArrayRecord
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store

from echelon.core.budget import Budget
from echelon.core.mixing import Ints
from echelon.core.strategy import RoundNumbers, Strategy
from echelon.peer.finish import Finish
from echelon.peer.group import Group
from echelon.peer.model import flatten, spread, state_vectors, trainable
from echelon.peer.passes import Passes
from echelon.peer.rounds import Instructions, Report, Rounds
from echelon.peer.steps import Steps

T = TypeVar("T")


class Peer:
    """One worker of a run without a server, in a process of torch.distributed: worker i is process i.

    A round is a loop over :meth:`minibatches`, in which the script trains as it likes, and a call of :meth:`mix`. Every
    process makes a ``Peer`` with the same strategy; all workers start from the model of worker 0.

    Parameters
    ----------
    strategy : Strategy
        How models are combined (any of ``echelon.strategies`` that needs no server), and how much a worker computes in
        a round (``work``). Options of a server (``partition``, ``eval_every``, ...) have no meaning here.
    model : torch.nn.Module
        Trained by the script; its parameters with a gradient are mixed in place. Buffers stay at their worker.
    optimizer : torch.optim.Optimizer, optional
        Of the script; needed where a strategy averages its state (all-reduce) or acts in its steps
        (``force="in_step"``, ``momentum_mixing="quasi_global"``, ``correction="tracking"``).
    samples : int
        Samples that this worker holds, for strategies that weigh workers by them; 0 if unknown.
    store : torch.distributed.Store, optional
        Where the workers' numbers are gathered; by default that of MASTER_ADDR and MASTER_PORT, which torchrun sets.
    timeout : float
        Seconds to wait for the slowest worker of a round.

    Attributes
    ----------
    rank : int
        This worker.

    Raises
    ------
    RuntimeError
        If torch.distributed has no process group.
    ValueError
        If the strategy needs a server or another optimiser, the workers' models differ in size, or there is no store.

    Examples
    --------
    One process; ``torchrun`` starts as many as there are workers:

    >>> import numpy as np, torch, torch.distributed as dist
    >>> import networkx as nx
    >>> from echelon.core.mixing import Mean, Mixing
    >>> from echelon.core.strategy import Strategy
    >>> from echelon.peer import Peer
    >>> class Average(Strategy):
    ...     def mixing(self, numbers):
    ...         return Mixing(Mean(np.full(self.num_workers, 1 / self.num_workers)), nx.Graph(), np.zeros(1))
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> model = torch.nn.Linear(2, 1)
    >>> peer = Peer(Average(), model)
    >>> loader = [(torch.ones(128, 2), torch.ones(128, 1))] * 3
    >>> for inputs, targets in peer.minibatches(loader):
    ...     loss = torch.nn.functional.mse_loss(model(inputs), targets)
    >>> peer.mix(loss).samples
    array([256])
    >>> dist.destroy_process_group()
    """

    def __init__(
        self,
        strategy: Strategy,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        samples: int = 0,
        store: Store | None = None,
        timeout: float = 1800.0,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._parameters = trainable(model)
        self._group = Group(None, self._parameters[0].device, store, timeout)
        self.rank = self._group.process
        self._rounds = Rounds(strategy, self._group, self._agreed(samples), lambda rank, row: self._arrays(row))
        self._finish = Finish.of(strategy.work, self._group.num_workers, self._group.store)
        self._passes: Passes[Any] | None = None
        self._round: tuple[Instructions, Budget] | None = None
        self._share_first()
        self._start = flatten(self._parameters, self._group.device)
        self._steps = Steps(strategy, optimizer, self._parameters, self.rank)

    def minibatches(self, loader: Iterable[T]) -> Iterator[T]:
        """Begin a round; yield mini-batches until this worker, or by the trigger another one, has finished.

        Parameters
        ----------
        loader : iterable
            Of mini-batches. It starts again when it ends; a round goes on where the last one stopped. If its sampler
            has ``set_epoch``, that is called for every pass.

        Raises
        ------
        RuntimeError
            If the round before has not been ended by :meth:`mix`.
        ValueError
            If the loader is empty, or the strategy needs the optimiser.
        """
        if self._round is not None:
            raise RuntimeError("mix must be called between two loops over minibatches")
        begun = self._rounds.begin({self.rank: self._start})
        if self._passes is None or self._passes.loader is not loader:
            self._passes = Passes(loader)
        budget = self._new_budget(begun)
        self._steps.begin(begun)
        self._round = begun, budget
        return self._until_over(begun, budget, self._passes)

    def mix(self, loss: float | Tensor = math.nan) -> RoundNumbers:
        """End a round: combine the workers' models by the strategy's matrix, in place.

        Parameters
        ----------
        loss : float or tensor
            Mean training loss of the round, for strategies that rank the workers by it.

        Returns
        -------
        RoundNumbers
            What all workers have reported, by rank; the same at every worker.

        Raises
        ------
        RuntimeError
            If no round has begun.
        """
        if self._round is None:
            raise RuntimeError("mix must follow a loop over minibatches")
        begun, budget = self._round
        done = budget.report()
        mean_loss = loss.item() if isinstance(loss, Tensor) else loss
        report = Report(int(done["samples"]), float(done["seconds"]), mean_loss)
        trained = self._rounds.buffers.take(self._start)
        flatten(self._parameters, self._group.device, out=trained)
        vectors = self._averaged_state()
        length, gradient = self._steps.end(report.samples)
        models, states, numbers = self._rounds.finish(
            begun,
            {self.rank: self._start},
            {self.rank: trained},
            {self.rank: report},
            [{self.rank: flatten(vector, self._group.device)} for vector in vectors],
            lengths={self.rank: length},
            gradients={} if gradient is None else {self.rank: gradient},
        )
        self._rounds.buffers.give([self._start, trained])
        self._start = models[self.rank]
        spread(self._start, self._parameters)
        for vector, state in zip(vectors, states, strict=True):
            spread(state[self.rank], vector)
        if self._finish is not None and self.rank == 0:
            self._finish.forget(begun.round)  # all have reported, so nobody asks any more
        self._round = None
        return numbers

    def consensus(self) -> dict[str, Tensor]:
        """Return the state of the consensus model, the mean of all workers' models; every process must call it.

        Parameters and buffers of floats are averaged; other buffers are those of rank 0.
        """
        state = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        own = {id(p) for p in self._model.parameters() if not p.requires_grad}
        live = self._model.state_dict(keep_vars=True)
        shared = [state[name] for name, value in live.items() if id(value) not in own]
        floats = [value for value in shared if value.is_floating_point()]
        total = flatten(floats, self._group.device)
        dist.all_reduce(total)
        spread(total / self._group.num_workers, floats)
        self._from_first([value for value in shared if not value.is_floating_point()])
        return state

    def _agreed(self, samples: int) -> Ints:
        """Return what every worker holds, (N,), after a check that their models are of one size."""
        size = sum(parameter.numel() for parameter in self._parameters)
        table = np.zeros((self._group.num_workers, 2))
        table[self.rank] = samples, size
        held, sizes = self._group.gather(table).T.astype(np.int64)
        if odd := np.flatnonzero(sizes != sizes[0]).tolist():
            raise ValueError(
                f"all workers must have the same model; worker {odd[0]} has {sizes[odd[0]]} trainable values, worker 0 "
                f"has {sizes[0]}"
            )
        return np.asarray(held)

    def _share_first(self) -> None:
        """Let all workers start from the model of rank 0."""
        row = flatten(self._parameters, self._group.device)
        dist.broadcast(row, 0)
        spread(row, self._parameters)
        self._from_first(list(self._model.buffers()))

    def _from_first(self, tensors: list[Tensor]) -> None:
        """Set tensors, in place, to those of rank 0."""
        for tensor in tensors:
            value = tensor.detach().to(self._group.device, copy=True).contiguous()
            dist.broadcast(value, 0)
            tensor.detach().copy_(value)

    def _new_budget(self, begun: Instructions) -> Budget:
        work, tally = self._rounds.strategy.work, self._rounds.tally
        finish = self._finish
        told = {
            "target_samples": int(begun.target_samples[self.rank]),
            "min_minibatches": work.min_minibatches,
            "minibatch_size": work.minibatch_size,
            "seconds_per_minibatch": float(tally.seconds_per_minibatch[self.rank]),
            "budget_seconds": begun.budget_seconds if finish is None else math.inf,
        }
        return Budget(told) if finish is None else Budget(told, lambda: finish.is_over(begun.round))

    def _until_over(self, begun: Instructions, budget: Budget, passes: Passes[T]) -> Iterator[T]:
        yield from budget.minibatches(passes)
        if self._finish is not None and budget.is_finished:
            self._finish.note(begun.round)

    def _averaged_state(self) -> list[list[Tensor]]:
        """Return the optimiser's vectors that the strategy averages: none until every worker has them."""
        if self._rounds.strategy.momentum_mixing != "mixed":
            return []
        vectors = [] if self._optimizer is None else state_vectors(self._optimizer, self._parameters)
        table = np.zeros((self._group.num_workers, 1))
        table[self.rank] = len(vectors)
        counts = self._group.gather(table)
        return vectors if (counts == counts[0]).all() else []

    def _arrays(self, row: Tensor) -> ArrayRecord:
        """Return the model with other parameters as Flower's arrays."""
        now = flatten(self._parameters, self._group.device)
        spread(row, self._parameters)
        arrays = ArrayRecord(self._model.state_dict())
        spread(now, self._parameters)
        return arrays
