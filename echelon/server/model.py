"""What the workers' model is made of: they say so in the handshake, and the server lays out its rows by it."""

from collections.abc import Iterable

from flwr.app import ArrayRecord

from echelon.core.layout import ModelParts, digest
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import as_ndarray
from echelon.server.nodes import Roster


def lay_out_model(arrays: ArrayRecord, roster: Roster, personal: Iterable[str] = ()) -> tuple[ArrayLayout, ArrayRecord]:
    """Return the layout of the workers' model, and the initial model with the buffers that ``arrays`` lacks.

    Parameters
    ----------
    arrays : ArrayRecord
        The initial model: a ``state_dict``, or its trainable parameters alone.
    roster : Roster
        Its entries say what the workers' models are made of.
    personal : iterable of str
        Names of values that are not mixed.

    Raises
    ------
    ValueError
        If a worker has another model than most, or theirs is not that of ``arrays``.
    """
    parts = _agreed_parts(roster)
    if parts is None:
        return ArrayLayout(arrays, None, personal), arrays
    holder = next(entry for entry in roster.entries if entry.parts == parts)
    missing = {name: array for name, array in (holder.buffers or {}).items() if name not in arrays}
    complete = ArrayRecord({**arrays, **missing})
    frozen = [name for name in arrays if name not in {*parts.trainable, *parts.buffers, *parts.tied}]
    if frozen and digest((name, as_ndarray(arrays[name]).tobytes()) for name in frozen) != parts.frozen:
        raise ValueError(
            f"the frozen parameters of the initial arrays ({frozen[0]}, ...) are not those of the workers: build_model "
            "must load the same ones everywhere, since they do not travel; or pass the trainable parameters alone"
        )
    roster.parts = parts
    return ArrayLayout(complete, parts, personal), complete


def _agreed_parts(roster: Roster) -> ModelParts | None:
    """Return what the workers say of their model; None if none of them says anything."""
    said = {rank: entry.parts for rank, entry in enumerate(roster.entries) if entry.parts is not None}
    if not said:
        return None
    parts = max(said.values(), key=list(said.values()).count)
    for rank, other in said.items():
        if other != parts:
            reason = other.difference(parts)
            raise ValueError(f"build_model must return the same model on every worker; that of worker {rank} {reason}")
    return parts


def check_averaged_optimizer(layout: ArrayLayout, *, bounded: bool) -> None:
    """Check that the state of an optimiser other than SGD, which travels, may be averaged over the workers.

    Raises
    ------
    ValueError
        If updates are bounded and this state is not (``bounded`` is false), or some of it is of personal parameters.
    """
    if not layout.optimizer_size:
        return
    remedy = "use optimizer.state=worker or reset"
    if not bounded:
        raise ValueError(f"strategy.max_update_norm does not bound the optimiser's state that travels: {remedy}")
    if layout.num_mixed < layout.num_parameters:
        raise ValueError(f"buffers names parameters, whose optimiser's state would be averaged: {remedy}")
