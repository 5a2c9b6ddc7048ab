"""Pack a message into few of Flower's objects, each of which is transferred in separate requests.

A model with a hundred arrays costs a SuperLink about a hundred transactions per worker and round. A small message is
packed into a single record (three objects, with the message and its list of records); of a larger one all arrays become
one, which Flower divides into chunks.
"""

import json
from itertools import accumulate, pairwise

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common import serde
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from echelon.protocol.expected import Expected
from echelon.protocol.messages import as_ndarray, num_bytes

PACKED = "packed"

MOST_BYTES_IN_ONE = 4 << 20
"""Arrays with more bytes than these are not packed into a record (`python -m benchmarks.packing`)."""

# Beside the arrays: instructions or a report.
_MOST_OTHER_BYTES = 1 << 20
_LENGTH_BYTES = 8
_Entry = tuple[str, str, str, list[int], int]


def pack(content: RecordDict, most_in_one: int = MOST_BYTES_IN_ONE) -> RecordDict:
    """Return the content packed: up to so many bytes as one record, otherwise with all arrays as a single array.

    The record holds the bytes of Flower's own protobuf encoding. The array contains bytes: the length of the header (8
    bytes, little-endian), the header (JSON: record, name, dtype, shape and number of bytes of each array), and the
    unchanged bytes of the arrays.
    """
    if num_bytes(content) <= most_in_one:
        return RecordDict({PACKED: ConfigRecord({PACKED: serde.recorddict_to_proto(content).SerializeToString()})})
    named = [
        (record, name, array) for record, arrays in content.array_records.items() for name, array in arrays.items()
    ]
    entries = [(record, name, array.dtype, array.shape, len(array.data)) for record, name, array in named]
    header = json.dumps(entries).encode()
    data = b"".join([len(header).to_bytes(_LENGTH_BYTES, "little"), header, *(array.data for _, _, array in named)])
    packed = RecordDict({key: record for key, record in content.items() if not isinstance(record, ArrayRecord)})
    packed[PACKED] = ArrayRecord({PACKED: Array(np.frombuffer(data, dtype=np.uint8))})
    return packed


def unpack(content: RecordDict, expected: Expected | None = None) -> RecordDict:
    """Unpack the arrays of a message; content that is not packed is returned unchanged.

    Parameters
    ----------
    content : RecordDict
        Of a message.
    expected : Expected, optional
        The arrays that it may have; they are compared before any is unpacked. By default the sender is trusted.

    Raises
    ------
    ValueError
        If the packed bytes do not have the format of :func:`pack`, or the arrays are not the expected ones.
    """
    if isinstance(content.get(PACKED), ConfigRecord):
        content = _from_one(content, expected)
    if expected is not None:
        expected.check_size(content)
    if not isinstance(content.get(PACKED), ArrayRecord):
        if expected is not None:
            expected.check_names(_listed(content))
        return content
    data = _packed_bytes(content)
    entries, start = _entries(data, expected)
    ends = list(accumulate((entry[-1] for entry in entries), initial=start))
    if ends[-1] != len(data):
        raise ValueError(f"packed arrays must have {ends[-1]} bytes, as declared in the header; got {len(data)}")
    records: dict[str, dict[str, Array]] = {}
    for (record, name, dtype, shape, _), (first, last) in zip(entries, pairwise(ends), strict=True):
        array = Array(dtype, tuple(shape), "numpy.ndarray", data[first:last].tobytes())
        records.setdefault(record, {})[name] = array
    unpacked = RecordDict({key: record for key, record in content.items() if key != PACKED})
    for record, arrays in records.items():
        unpacked[record] = ArrayRecord(arrays)
    return unpacked


def _from_one(content: RecordDict, expected: Expected | None) -> RecordDict:
    """Return what a single record holds; its length is compared before it is read."""
    data = content.config_records[PACKED].get(PACKED)
    if len(content) != 1 or len(content.config_records[PACKED]) != 1 or not isinstance(data, bytes):
        raise ValueError("a message packed into one record must hold its bytes, and nothing else")
    if expected is not None and len(data) > expected.num_bytes + _MOST_OTHER_BYTES:
        raise ValueError(f"its reply has {len(data)} bytes; an honest one has at most {expected.num_bytes} of arrays")
    try:
        return serde.recorddict_from_proto(ProtoRecordDict.FromString(data))
    except (DecodeError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"a packed message has no readable records: {error}") from error


def _listed(content: RecordDict) -> list[tuple[str, str, int]]:
    records = [(key, record) for key, record in content.items() if isinstance(record, ArrayRecord)]
    return [(key, name, len(array.data)) for key, record in records for name, array in record.items()]


def _packed_bytes(content: RecordDict) -> NDArray[np.uint8]:
    if set(content.array_records) != {PACKED} or set(content.array_records[PACKED]) != {PACKED}:
        raise ValueError("a packed message must have exactly one array")
    data = as_ndarray(content.array_records[PACKED][PACKED])
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError(f"packed arrays must be bytes; got {data.dtype} {data.shape}")
    return data


def _entries(data: NDArray[np.uint8], expected: Expected | None) -> tuple[list[_Entry], int]:
    """Return the header of packed arrays, and the index at which it ends."""
    length = int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
    if expected is not None and length > expected.header_bytes:
        raise ValueError(f"the header of packed arrays has {length} bytes; an honest one has {expected.header_bytes}")
    end = _LENGTH_BYTES + length
    entries = _parsed(data[_LENGTH_BYTES:end])
    if expected is not None:
        expected.check_names((record, name, size) for record, name, _, _, size in entries)
    return entries, end


def _parsed(header: NDArray[np.uint8]) -> list[_Entry]:
    try:
        entries: list[_Entry] = json.loads(header.tobytes())
        valid = isinstance(entries, list) and all(_is_valid(*entry) for entry in entries)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"packed arrays have no readable header: {error}") from error
    if not valid:
        raise ValueError("the header of packed arrays must list names, types, shapes and lengths")
    return entries


def _is_valid(record: object, name: object, dtype: object, shape: object, length: object) -> bool:
    texts = all(isinstance(text, str) for text in (record, name, dtype))
    sizes = isinstance(shape, list) and all(_is_size(size) for size in shape)
    return texts and sizes and _is_size(length)


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0
