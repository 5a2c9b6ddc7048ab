"""The worker's side of ``wire=bf16``: models come rounded to bfloat16, and differences to what has come go back.

The server adds a difference to the model that it holds in float32, which rounding never touches: see
``docs/deployment.md``.
"""

from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from echelon.core.bf16 import Floats, from_words, to_words
from echelon.protocol.messages import (
    ANCHOR,
    ARRAYS,
    CORRECTION,
    DIRECTION,
    MEMORY,
    MOMENTUM,
    as_array,
    as_ndarray,
    record,
)
from echelon.protocol.rows import is_row

Wire = Literal["fp32", "bf16"]
CHOICES = ("fp32", "bf16")

# Not the state of an optimiser: Adam's second moments change by less than bfloat16 resolves.
_ROUNDED = (ARRAYS, MOMENTUM, ANCHOR, DIRECTION, CORRECTION, MEMORY)
_RETURNED = (ARRAYS, MOMENTUM)


def lengthened(content: RecordDict, count: int) -> RecordDict | None:
    """Return a train message that came in bfloat16 with rows and vectors in float32; None of any other message.

    Parameters
    ----------
    content : RecordDict
        Unpacked.
    count : int
        Trainable parameters of the model.

    Raises
    ------
    KeyError
        If there is no model.
    """
    arrays = record(content, ARRAYS, ArrayRecord)
    if not any(is_row([name]) and array.dtype == "uint16" for name, array in arrays.items()):
        return None
    whole = RecordDict(dict(content))
    for key in set(_ROUNDED) & set(content):
        whole[key] = ArrayRecord(
            {
                name: as_array(from_words(as_ndarray(array), count)) if array.dtype == "uint16" else array
                for name, array in record(content, key, ArrayRecord).items()
            }
        )
    return whole


def differences(reply: RecordDict, content: RecordDict, count: int) -> RecordDict:
    """Return a reply whose parameters and momentum are differences to those received, rounded to bfloat16.

    Buffers and other values are as they were. ``content`` is what :func:`lengthened` has returned.
    """
    short = RecordDict(dict(reply))
    for key in set(_RETURNED) & set(reply):
        before = record(content, key, ArrayRecord)
        short[key] = ArrayRecord(
            {
                name: _difference(array, before[name], count) if array.dtype == "float32" else array
                for name, array in record(reply, key, ArrayRecord).items()
            }
        )
    return short


def _difference(array: Array, before: Array, count: int) -> Array:
    row: Floats = np.array(as_ndarray(array))
    row[:count] -= as_ndarray(before)[:count]
    return as_array(to_words(row, count))
