"""How much memory is free, and the refusal of what does not fit, before it is allocated."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")

# Of a control group, by version: mount point, limit, use, and the part of the use that the kernel can take back.
_V1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("", "memory.max", "memory.current", "inactive_file")


def available() -> int:
    """Return the bytes that can still be allocated: what the machine has free, or what a control group leaves."""
    return max(0, min([_machine(), *_groups()]))


def require(subject: str, needs: Mapping[str, int], remedy: str) -> None:
    """Refuse what needs more memory than is free.

    Parameters
    ----------
    subject : str
        The key and value that ask for it.
    needs : mapping of str to int
        Bytes by purpose.
    remedy : str
        Which keys to change.

    Raises
    ------
    ValueError
        In one line with the numbers.

    Examples
    --------
    >>> from echelon.core.memory import require
    >>> require("workers=8", {"the models": 4_000_000}, "lower workers")
    >>> require("workers=1000000000", {"the models": 40_000_000_000_000_000}, "lower workers")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: workers=1000000000 needs at least 40,000,000.0 GB of memory (the models), but ... GB are free: lower ...
    """
    total, free = sum(needs.values()), available()
    if total <= free:
        return
    ordered = sorted(needs.items(), key=lambda need: -need[1])
    parts = ", ".join(f"{name} {_text(size)}" for name, size in ordered if size)
    purpose = ordered[0][0] if len(ordered) == 1 else parts
    raise ValueError(
        f"{subject} needs at least {_text(total)} of memory ({purpose}), but {_text(free)} are free: {remedy}"
    )


def _text(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _machine() -> int:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # without Linux's figure: all there is


def _groups() -> Iterator[int]:
    """Yield what each control group above this process leaves, in either version of Linux's interface."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            mount, *names = _V2 if number == "0" else _V1
            # In a container the path may be that of the host, and the container's own group is the mount point.
            inner = Path(path.lstrip("/"))
            for folder in (inner, *inner.parents):
                with suppress(OSError, ValueError):  # no limit: no such file, or `max`
                    yield _left(_GROUPS / mount / folder, *names)


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int:
    allowed, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    return allowed - used + int(statistics.get(reclaimable, 0))
