"""Several train messages as one, for workers that one process trains, and their replies as one."""

from collections.abc import Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from echelon.protocol.messages import ARRAYS, CONFIG

FEWEST_WORKERS = 8
"""``engine.batched=auto`` trains no fewer workers in one computation."""

MOST_MODEL_BYTES = 1_000_000
"""Nor larger models, with what one mini-batch keeps for its gradient: one after the other, they stay in the processor's
cache. docs/simulation.md has the times, of a CPU."""

_BUNDLE = "bundle"
_COUNT, _FAILED, _REASONS, _REFUSED = "count", "failed", "reasons", "refused"


def join(contents: Sequence[RecordDict | str], refused: str = "") -> RecordDict:
    """Return the contents of several messages as one; a text takes the place of a reply that failed.

    ``refused`` says why the workers were trained one after the other, if they were.

    Examples
    --------
    >>> from flwr.app import MetricRecord, RecordDict
    >>> from echelon.protocol.bundles import join, split
    >>> split(join([RecordDict({"metrics": MetricRecord({"loss": 0.5})}), "ValueError: no data"]))[1]
    'ValueError: no data'
    """
    failed = {place: content for place, content in enumerate(contents) if isinstance(content, str)}
    numbers, texts = {_COUNT: [len(contents)], _FAILED: [*failed]}, {_REASONS: [*failed.values()], _REFUSED: [refused]}
    joined = RecordDict({_BUNDLE: ConfigRecord({**numbers, **texts})})
    for place, content in enumerate(contents):
        if not isinstance(content, str):
            for key, record in content.items():
                joined[f"{place}/{key}"] = record
    return joined


def split(content: RecordDict) -> list[RecordDict | str]:
    """Return the contents that have been joined, in order."""
    entries: Any = content[_BUNDLE]
    reasons = dict(zip(entries[_FAILED], entries[_REASONS], strict=True))
    found: list[Any] = [reasons.get(place, RecordDict()) for place in range(*entries[_COUNT])]
    for key, record in content.items():
        place, _, name = key.partition("/")
        if name:
            found[int(place)][name] = record
    return found


def refused(content: RecordDict) -> str:
    """Return why the workers of a bundle were trained one after the other; an empty text if they were not."""
    entries: Any = content[_BUNDLE]
    return "".join(entries[_REFUSED])


def is_bundle(content: RecordDict) -> bool:
    """Return whether a message has the contents of several."""
    return _BUNDLE in content


def rank_in(content: RecordDict) -> int:
    """Return the rank that a train message names; -1 if it names none, as those of Flower's own strategies."""
    told = content.get(CONFIG)
    return int(told.get("rank", -1)) if isinstance(told, ConfigRecord) else -1  # type: ignore[arg-type]


def refusal(message: Message, *, auto: bool) -> str:
    """Return why a train message is sent by itself, if it is: real time measures the worker, or no rank is named.

    With ``auto``, its model must be so small that a batched computation may be faster.
    """
    content = message.content
    told, arrays = content.get(CONFIG), content.get(ARRAYS)
    if rank_in(content) < 0 or not isinstance(told, ConfigRecord) or not isinstance(arrays, ArrayRecord):
        return "their messages are not those of Echelon's strategies"
    if told.get("wall_clock", False):
        return "real time measures every worker by itself"
    size = sum(len(array.data) for array in arrays.values())
    return f"a model has {size / 1e6:.1f} MB, which the loop does as fast" if auto and size > MOST_MODEL_BYTES else ""
