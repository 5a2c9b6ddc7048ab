"""AL-DSGD (He, Wang & Choromanska, ECAI 2024): leaders among the neighbours weigh more, and pull."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Unpack, get_args

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from echelon.algorithms import leader
from echelon.algorithms.schedules import Schedule
from echelon.algorithms.seeds import rng
from echelon.core.mixing import Floats, Leaders, Mixing, Pull
from echelon.core.strategy import Order, RoundNumbers
from echelon.server.options import Options

from .d_psgd import AllEdges, MatrixName
from .gossip import Gossip
from .matcha import Matchings

Signal = Literal["train_loss", "ema", "held_out", "random"]


class ALDSGD(Gossip):
    """Leader weights and corrective forces on top of D-PSGD or MATCHA: X+ = (A W + B P_b + D P_d) Y.

    With all of ``c1, c2, p1, p2`` zero this is the base rule.

    Parameters
    ----------
    topology, order, allow_disconnected
        See :class:`strategies.gossip.Gossip`. The papers rotate copies of one graph.
    base : {"d_psgd", "matcha"}
        The rule below the leaders.
    mixing : str
        For ``d_psgd``, see :class:`strategies.d_psgd.AllEdges`.
    communication_budget : float
        For ``matcha``, see :class:`strategies.matcha.Matchings`.
    c1, c2 : float
        Weights of the leader by loss and of the leader by degree. ``c2=None`` is 0.1, or 0 with the gate.
    p1, p2 : float
        Corrective forces towards them. ``p2=None`` is 0.1, or 0 with the gate.
    every : int
        Apply leader weights every n rounds.
    decay : float
        Factor on c and p after every round, in (0, 1].
    signal : {"train_loss", "ema", "held_out", "random"}
        What makes a leader: the mean training loss of the round, its exponential average over rounds, or the loss on a
        held-out batch (option ``held_out_loss``). With label-skewed shards a low own loss does not mean a good model.
        ``random`` draws the leaders by loss in every round: the control for claims about leaders.
    gate : bool, optional
        With ``signal="held_out"``: a worker follows its leader by loss only if the leader's held-out loss is below that
        of the worker's own mixed model; otherwise c1 = p1 = 0 in its row. Option ``robust`` sets both. ``None`` is
        True wherever a gate is possible.
    ema : float
        Weight of the newest round for ``signal="ema"``.
    force : {"after_mixing", "in_step"}
        Where p1 and p2 act: on the mixed rows, or within the worker's own steps as p1 (x - x_b) + p2 (x - x_d) added to
        the gradient, with the leaders of the round before (the paper's form as far as it is known). A worker that
        leads itself feels no force from itself.
    degree : {"base", "active"}
        Whether degrees count in the round's graph or among its active edges.
    **options : Options
        See :class:`echelon.server.options.Options`.
    """

    def __init__(
        self,
        topology: str | nx.Graph | Schedule = "ring",
        *,
        base: Literal["d_psgd", "matcha"] = "d_psgd",
        mixing: MatrixName = "metropolis",
        communication_budget: float = 0.5,
        c1: float = 0.3,
        c2: float | None = None,
        p1: float = 0.1,
        p2: float | None = None,
        every: int = 1,
        decay: float = 1.0,
        signal: Signal = "train_loss",
        gate: bool | None = False,
        ema: float = 0.5,
        force: Literal["after_mixing", "in_step"] = "after_mixing",
        degree: Literal["base", "active"] = "base",
        order: Order = "adapt_then_combine",
        allow_disconnected: bool = False,
        **options: Unpack[Options],
    ) -> None:
        rule = AllEdges(mixing) if base == "d_psgd" else Matchings(communication_budget)
        super().__init__(
            topology,
            rule,
            order=order,
            allow_disconnected=allow_disconnected,
            **options,
        )
        if self.robust:
            _check_robust({"force": (force, "after_mixing"), "signal": (signal, "held_out")})
            signal, gate = "held_out", True
        if gate is None:
            gate = signal == "held_out" and force == "after_mixing"
        c2, p2 = ((0.0 if gate else 0.1) if weight is None else weight for weight in (c2, p2))
        leader.check_weights(c1, c2, p1, p2)
        leader.decay(1.0, decay, 0)
        for name, value, allowed in (
            ("base", base, ("d_psgd", "matcha")),
            ("signal", signal, get_args(Signal)),
            ("force", force, ("after_mixing", "in_step")),
            ("degree", degree, ("base", "active")),
        ):
            if value not in allowed:
                raise ValueError(f"strategy.{name} must be one of {', '.join(allowed)}; got {value}")
        if every < 1:
            raise ValueError(f"strategy.every must be at least 1; got {every}")
        if signal == "held_out" and options.get("held_out_loss") is None:
            raise ValueError("strategy.signal=held_out needs held_out_loss, a function of a model's arrays; got none")
        if gate and signal != "held_out":
            raise ValueError(f"strategy.gate=true needs strategy.signal=held_out; got {signal}")
        if gate and force != "after_mixing":
            raise ValueError(f"strategy.gate=true needs strategy.force=after_mixing; got {force}")
        if force == "in_step" and self.remembers:
            raise ValueError("strategy.force must be after_mixing with work.estimator=memory; got in_step")
        self.gate = gate
        self.weights = {"c1": c1, "c2": c2, "p1": p1, "p2": p2}
        self.every, self.decay = every, decay
        self.signal, self.ema = signal, ema
        self.losses = "held_out" if signal == "held_out" else "train"
        self.force, self.degree = force, degree

    def update_signal(self, previous: Floats, measured: Floats) -> Floats:
        """Return the losses that make a leader: of the round, or their exponential average over rounds."""
        new = super().update_signal(previous, measured)
        if self.signal != "ema":
            return new
        return np.where(np.isnan(previous), new, previous + self.ema * (new - previous))

    def mixing(self, numbers: RoundNumbers) -> Mixing:
        """Return the leaders' operator over the base rule's matrix."""
        plain = self.unclipped(numbers)
        assert isinstance(plain.graph, nx.Graph)
        # A matching drawn afresh gives all workers the same degree: the graph that it is drawn from tells them apart.
        degree_graph = self.base_graph(numbers.round) if self.degree == "base" else plain.graph
        losses = numbers.losses
        if self.signal == "random":
            losses = rng(self.seed, "leaders", numbers.round).random(len(losses))
        found = leader.leaders(plain.graph, losses, numbers.present, degree_graph)
        active = numbers.round % self.every == 0
        leaders = Leaders(found.best.astype(np.int64), found.degree.astype(np.int64), active)
        if not active:
            return replace(self.clipped(plain, numbers), leaders=leaders)
        weights = self._weights_at(numbers.round)
        if self.force == "in_step":
            weights |= {"p1": 0.0, "p2": 0.0}
        assert isinstance(plain.matrix, np.ndarray)
        matrix = leader.operator(
            plain.matrix,
            plain.graph,
            losses,
            **weights,
            present=numbers.present,
            degree_graph=degree_graph,
            gate=self._gates(plain, leaders, numbers),
        )
        return self.clipped(replace(plain, matrix=matrix, leaders=leaders, base=plain.matrix), numbers)

    def _gates(self, plain: Mixing, leaders: Leaders, numbers: RoundNumbers) -> NDArray[np.bool_] | None:
        """Return who follows its leader by loss, (N,): whose leader is better than its own mixed model."""
        if not self.gate:
            return None
        mixed = numbers.ask().mixed_losses(self.clipped(plain, numbers))
        follows: NDArray[np.bool_] = numbers.losses[leaders.best] < mixed
        return follows

    def pull(self, round_number: int, leaders: Leaders) -> Pull | None:
        """Return, for ``force="in_step"``, the force towards the leaders of the previous round."""
        weights = self._weights_at(round_number)
        if self.force != "in_step" or round_number % self.every or weights["p1"] + weights["p2"] == 0:
            return None
        found = leader.Leaders(leaders.best, leaders.degree)
        return Pull(*leader.anchors(found, l_n=weights["p1"], l_d=weights["p2"]))

    def _weights_at(self, round_number: int) -> dict[str, float]:
        return {name: leader.decay(value, self.decay, round_number - 1) for name, value in self.weights.items()}


def _check_robust(chosen: Mapping[str, tuple[str, str]]) -> None:
    """Refuse choices, {key: (chosen, needed)}, that ``robust`` would silently replace; the default is no choice."""
    for name, (value, needed) in chosen.items():
        if value not in (needed, "train_loss"):
            raise ValueError(f"strategy.{name} must be {needed} with strategy.robust=true; got {value}")
