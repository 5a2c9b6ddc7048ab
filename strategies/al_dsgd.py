"""AL-DSGD (He, Wang & Choromanska, ECAI 2024): leaders among the neighbours weigh more, and pull."""

from collections.abc import Callable, Mapping
from typing import Literal, Unpack

import networkx as nx
import numpy as np
from flwr.app import ArrayRecord

from echelon.algorithms import leader
from echelon.algorithms.schedules import Schedule
from echelon.protocol.messages import ANCHOR
from echelon.server.options import Options
from echelon.server.replies import Reply
from echelon.server.strategy import Ints, Mixing

from .d_psgd import AllEdges, MatrixName
from .gossip import Gossip, Order
from .matcha import Matchings

Signal = Literal["train_loss", "ema", "held_out"]

_LEADERS = "leaders"


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
        Weights of the leader by loss and of the leader by degree.
    p1, p2 : float
        Corrective forces towards them.
    every : int
        Leaders act in each so many rounds.
    decay : float
        Factor on c and p after every round, in (0, 1].
    signal : {"train_loss", "ema", "held_out"}
        What makes a leader: the mean training loss of the round, its exponential average over rounds, or the loss on a
        held-out batch. With label-skewed shards a low own loss does not mean a good model.
    ema : float
        Weight of the newest round for ``signal="ema"``.
    held_out_loss : callable, optional
        (arrays) -> loss, for ``signal="held_out"``.
    force : {"after_mixing", "in_step"}
        Where p1 and p2 act: on the mixed rows, or within the worker's own steps as p1 (x - x_b) + p2 (x - x_d) added to
        the gradient, with the leaders of the round before (the paper's form as far as it is known).
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
        c2: float = 0.1,
        p1: float = 0.1,
        p2: float = 0.1,
        every: int = 1,
        decay: float = 1.0,
        signal: Signal = "train_loss",
        ema: float = 0.5,
        held_out_loss: Callable[[ArrayRecord], float] | None = None,
        force: Literal["after_mixing", "in_step"] = "after_mixing",
        degree: Literal["base", "active"] = "base",
        order: Order = "adapt_then_combine",
        allow_disconnected: bool = False,
        **options: Unpack[Options],
    ) -> None:
        rule = AllEdges(mixing) if base == "d_psgd" else Matchings(communication_budget)
        super().__init__(topology, rule, order=order, allow_disconnected=allow_disconnected, **options)
        leader.check_weights(c1, c2, p1, p2)
        leader.decay(1.0, decay, 0)
        for name, value, allowed in (
            ("base", base, ("d_psgd", "matcha")),
            ("signal", signal, ("train_loss", "ema", "held_out")),
            ("force", force, ("after_mixing", "in_step")),
            ("degree", degree, ("base", "active")),
        ):
            if value not in allowed:
                raise ValueError(f"strategy.{name} must be one of {', '.join(allowed)}; got {value}")
        if every < 1:
            raise ValueError(f"strategy.every must be at least 1; got {every}")
        if signal == "held_out" and held_out_loss is None:
            raise ValueError("strategy.signal=held_out needs held_out_loss, a function of a model's arrays; got none")
        self.weights = {"c1": c1, "c2": c2, "p1": p1, "p2": p2}
        self.every, self.decay = every, decay
        self.signal, self.ema, self.held_out_loss = signal, ema, held_out_loss
        self.force, self.degree = force, degree

    def observe_losses(self, replies: Mapping[int, Reply]) -> None:
        """Update the signal that makes a leader."""
        before = self.state.losses.copy()
        super().observe_losses(replies)
        if self.signal == "ema":
            new = self.state.losses
            self.state.losses = np.where(np.isnan(before), new, before + self.ema * (new - before))
        elif self.held_out_loss is not None and self.signal == "held_out":
            for rank, reply in replies.items():
                if reply.row is not None:
                    self.state.losses[rank] = self.held_out_loss(self.layout.arrays(reply.row))

    def round_mixing(self, server_round: int, present: Ints) -> Mixing:
        """Return the leaders' operator over the base rule's matrix."""
        plain = super().round_mixing(server_round, present)
        # A matching drawn afresh gives everybody the same degree: the graph that it is drawn from tells them apart.
        base = self.schedule.support if self.schedule.period is None else self.schedule.graph(server_round - 1)
        degree_graph = base if self.degree == "base" else plain.graph
        found = leader.leaders(plain.graph, self.state.losses, present, degree_graph)
        self.state.extras[_LEADERS] = np.stack(found).astype(np.int64)
        if server_round % self.every:
            return plain
        weights = self._weights_at(server_round)
        if self.force == "in_step":
            weights |= {"p1": 0.0, "p2": 0.0}
        matrix = leader.operator(
            plain.matrix, plain.graph, self.state.losses, **weights, present=present, degree_graph=degree_graph
        )
        best, degree = self.state.extras[_LEADERS]
        return Mixing(matrix, plain.graph, plain.models_sent, (best, degree))

    def extra_arrays(self, rank: int) -> tuple[dict[str, ArrayRecord], dict[str, float]]:
        """Return, for ``force="in_step"``, the anchor between the leaders of the round before."""
        weights = self._weights_at(self.orders.server_round)
        strength = weights["p1"] + weights["p2"]
        due = self.orders.server_round % self.every == 0
        if self.force != "in_step" or not due or strength == 0 or _LEADERS not in self.state.extras:
            return {}, {}
        found = leader.Leaders(*self.state.extras[_LEADERS])
        pull = leader.anchors(found, l_n=weights["p1"], l_d=weights["p2"])[rank].astype(np.float32)
        leading = np.flatnonzero(pull)
        anchor = pull[leading] @ self.state.rows[leading, : self.layout.num_parameters]
        return {ANCHOR: self.layout.parameter_arrays(anchor)}, {"anchor_strength": strength}

    def _weights_at(self, server_round: int) -> dict[str, float]:
        return {name: leader.decay(value, self.decay, server_round - 1) for name, value in self.weights.items()}
