"""What an honest reply holds: a reply is compared with it before anything of it is unpacked or copied."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from flwr.app import ArrayRecord, RecordDict

# Of one array: the header of its .npy bytes, and its entry (without the name) in the header of packed arrays.
_HEADER_BYTES = 1024
_MOST_RECORDS = 16


@dataclass(frozen=True)
class Expected:
    """The arrays that a reply may hold.

    Parameters
    ----------
    sizes : mapping of str to mapping of str to int
        Record -> name -> bytes of the values.

    Examples
    --------
    >>> from echelon.protocol.expected import Expected
    >>> Expected({"arrays": {"weight": 24}}).check_names([("arrays", "stranger", 24)])
    Traceback (most recent call last):
    ValueError: array stranger is unknown
    """

    sizes: Mapping[str, Mapping[str, int]]

    @cached_property
    def num_arrays(self) -> int:
        """Number of arrays."""
        return sum(len(arrays) for arrays in self.sizes.values())

    @cached_property
    def header_bytes(self) -> int:
        """Most bytes that do not belong to values."""
        names = [name for arrays in self.sizes.values() for name in arrays]
        return sum(_HEADER_BYTES + len(json.dumps(name)) for name in names)

    @cached_property
    def num_bytes(self) -> int:
        """Most bytes of all arrays."""
        return self.header_bytes + sum(size for arrays in self.sizes.values() for size in arrays.values())

    def check_size(self, content: RecordDict) -> None:
        """Raise ValueError for content with more records, arrays or bytes than an honest reply has."""
        if len(content) > _MOST_RECORDS:
            raise ValueError(f"its reply has {len(content)} records; at most {_MOST_RECORDS} are read")
        records = [record for record in content.values() if isinstance(record, ArrayRecord)]
        self._check_count(sum(len(record) for record in records))
        size = sum(len(array.data) for record in records for array in record.values())
        if size > self.num_bytes:
            raise ValueError(f"its reply has {size} bytes of arrays; an honest one has at most {self.num_bytes}")

    def check_names(self, arrays: Iterable[tuple[str, str, int]]) -> None:
        """Check the arrays of a reply, given by record, name and number of bytes.

        Raises
        ------
        ValueError
            If there are too many, or one is unknown, comes twice or has too many bytes.
        """
        listed = list(arrays)
        self._check_count(len(listed))
        for record, name, size in listed:
            if record not in self.sizes:
                raise ValueError(f"array record {record[:100]} is unknown; known are {', '.join(self.sizes)}")
            if name not in self.sizes[record]:
                raise ValueError(f"array {name[:100]} is unknown")
            if size > self.sizes[record][name] + _HEADER_BYTES:
                raise ValueError(
                    f"array {name} must have {self.sizes[record][name]} bytes of values; got {size} in all"
                )
        if len({(record, name) for record, name, _ in listed}) < len(listed):
            raise ValueError("an array comes twice")

    def _check_count(self, count: int) -> None:
        if count > self.num_arrays:
            raise ValueError(f"its reply has {count} arrays; an honest one has at most {self.num_arrays}")
