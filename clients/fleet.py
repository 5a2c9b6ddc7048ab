"""Fleets: simulated devices with different speeds, networks and availability."""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from echelon.algorithms.seeds import rng

from .clocks import VirtualClock

JitterKind = Literal["none", "shifted_exponential", "log_normal", "slowdown"]

# Wait before checking again, if churn has taken all workers offline.
_CHURN_WAIT_SECONDS = 1.0
# Rounds that are looked at first; then twice as many.
_LOOK_BACK = 64


@dataclass(frozen=True)
class Jitter:
    """Random factor on the duration of every mini-batch.

    ``shifted_exponential``: 1 + Exp(mean ``scale``). ``log_normal``: exp(Normal(0, ``scale``)). ``slowdown``:
    ``factor`` with ``probability``, else 1.
    """

    kind: JitterKind = "none"
    scale: float = 0.0
    probability: float = 0.0
    factor: float = 1.0

    def draw(self, generator: np.random.Generator) -> float:
        """Return the factor of one mini-batch."""
        match self.kind:
            case "none":
                return 1.0
            case "shifted_exponential":
                return 1.0 + generator.exponential(self.scale)
            case "log_normal":
                return float(np.exp(generator.normal(0.0, self.scale)))
            case "slowdown":
                return self.factor if generator.random() < self.probability else 1.0


@dataclass(frozen=True)
class Device:
    """One simulated device: speed, network (bandwidth in bytes per second) and online intervals in run time."""

    samples_per_second: float
    latency_seconds: float = 0.0
    bandwidth: float = math.inf
    on_intervals: tuple[tuple[float, float], ...] = ((0.0, math.inf),)

    def seconds_away(self, run_seconds: float) -> float:
        """Return the remaining offline time at ``run_seconds``: 0 if online, inf if the device never returns."""
        waits = [max(on - run_seconds, 0.0) for on, off in self.on_intervals if run_seconds < off]
        return min(waits, default=math.inf)


@dataclass(frozen=True)
class Fleet:
    """The devices of a simulation; worker ``rank`` runs on ``devices[rank % len(devices)]``.

    ``leave_probability`` and ``return_probability`` are per round (churn).
    """

    devices: tuple[Device, ...]
    jitter: Jitter = field(default_factory=Jitter)
    leave_probability: float = 0.0
    return_probability: float = 1.0

    def device(self, rank: int) -> Device:
        """Return the device of worker ``rank``."""
        return self.devices[rank % len(self.devices)]

    def clock(self, seed: int, rank: int, server_round: int) -> VirtualClock:
        """Return a worker's clock for one round; its jitter depends on (seed, rank, round) alone."""
        generator = rng(seed, "jitter", rank, server_round)
        return VirtualClock(self.device(rank).samples_per_second, lambda: self.jitter.draw(generator))

    def seconds_away(self, seed: int, rank: int, server_round: int, run_seconds: float) -> float:
        """Return how long worker ``rank`` is offline from this round on; 0 if it is online."""
        offline = self.device(rank).seconds_away(run_seconds)
        return max(offline, _CHURN_WAIT_SECONDS) if self._churned(seed, rank, server_round) else offline

    def _churned(self, seed: int, rank: int, server_round: int) -> bool:
        """Return whether a worker, online at first, is offline after a draw per round.

        Some draws decide alone, whatever the worker was before; the others turn it round or leave it. So the rounds
        before the last decisive draw need not be replayed.
        """
        if self.leave_probability == 0:
            return False
        end, turns = server_round, 0
        while end > 0:
            begin = max(0, min(end - _LOOK_BACK, 2 * end - server_round))
            draws = _churn_draws(seed, rank, begin, end)
            leaves, stays_away = draws < self.leave_probability, draws >= self.return_probability
            decisive = np.flatnonzero(leaves == stays_away)
            since = int(decisive[-1]) + 1 if decisive.size else 0
            turns += int(np.count_nonzero((leaves & ~stays_away)[since:]))
            if decisive.size:
                return bool(leaves[decisive[-1]]) ^ (turns % 2 == 1)
            end = begin
        return turns % 2 == 1


def _churn_draws(seed: int, rank: int, begin: int, end: int) -> NDArray[np.float64]:
    """Return the numbers that a worker's presence is drawn from, one per round, of the rounds begin..end-1 (from 0)."""
    generator = rng(seed, "churn", rank)
    bits = generator.bit_generator
    assert isinstance(bits, np.random.PCG64)  # one step per number
    bits.advance(begin)
    return generator.random(end - begin)


def repeated(
    relative_speeds: tuple[float, ...], samples_per_second: float, latency_seconds: float, bandwidth: float
) -> tuple[Device, ...]:
    """Return devices at the given speeds relative to a reference of ``samples_per_second``.

    Raises
    ------
    ValueError
        If there is no speed.
    """
    if not relative_speeds:
        raise ValueError("fleet.speeds must hold at least one number; got []")
    return tuple(Device(speed * samples_per_second, latency_seconds, bandwidth) for speed in relative_speeds)


def read_trace(path: Path, num_workers: int) -> tuple[Device, ...]:
    """Read devices from a CSV file: rank, samples_per_second, latency_seconds, bandwidth_bits_per_second.

    The optional columns ``on_seconds`` and ``off_seconds`` restrict a device to an interval of run time; further rows
    of the same rank add intervals.

    Raises
    ------
    ValueError
        Naming the file, line and invalid value, or the first missing rank.
    """
    rows: dict[int, list[dict[str, float]]] = {}
    required = ("rank", "samples_per_second", "latency_seconds", "bandwidth_bits_per_second")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in required if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"fleet.path {path} lacks the column {missing[0]}; it needs {', '.join(required)}")
        for row in reader:
            values = _parse_row(path, reader.line_num, row)
            rows.setdefault(int(values["rank"]), []).append(values)
    absent = [rank for rank in range(num_workers) if rank not in rows]
    if absent:
        raise ValueError(f"fleet.path {path} has no row for rank {absent[0]}; {num_workers} workers need one each")
    return tuple(_device(rows[rank]) for rank in range(num_workers))


def _parse_row(path: Path, line: int, row: dict[str | None, str | None]) -> dict[str, float]:
    where = f"fleet.path {path}, line {line}"
    if None in row:
        raise ValueError(f"{where} has more values than the header has columns")
    values = {"on_seconds": 0.0, "off_seconds": math.inf}
    for name, text in row.items():
        try:
            values |= {str(name): float(text)} if text else {}
        except ValueError:
            raise ValueError(f"{where}: {name} must be a number; got {text}") from None
    on = values["on_seconds"]
    rules: tuple[tuple[str, Callable[[float], bool], str], ...] = (
        ("rank", lambda v: v >= 0 and v.is_integer(), "a whole number, at least 0"),
        ("samples_per_second", lambda v: 0 < v < math.inf, "above 0 and finite"),
        ("latency_seconds", lambda v: 0 <= v < math.inf, "at least 0 and finite"),
        ("bandwidth_bits_per_second", lambda v: v > 0, "above 0"),
        ("on_seconds", lambda v: 0 <= v < math.inf, "at least 0 and finite"),
        ("off_seconds", lambda v: v > on, f"above on_seconds, {on:g}"),
    )
    for name, holds, meaning in rules:
        if not holds(values.get(name, math.nan)):
            raise ValueError(f"{where}: {name} must be {meaning}; got {row.get(name) or 'nothing'}")
    return values


def _device(rows: list[dict[str, float]]) -> Device:
    first = rows[0]
    intervals = tuple(sorted((row["on_seconds"], row["off_seconds"]) for row in rows))
    bandwidth = first["bandwidth_bits_per_second"] / 8
    return Device(first["samples_per_second"], first["latency_seconds"], bandwidth, intervals)
