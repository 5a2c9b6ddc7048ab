"""Software and hardware environment of a run."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("flwr", "ray", "torch", "torchvision", "numpy", "scipy", "networkx", "scikit-learn", "numba", "hydra-core")
_ROOT = Path(__file__).resolve().parents[2]


def describe() -> dict[str, Any]:
    """Describe interpreter, packages, machine and source code of this process.

    Returns
    -------
    dict
        ``python, packages, platform, cpu, cpu_count, memory_bytes, gpus, git_commit, git_modified, command``;
        None if a value is unavailable.
    """
    # An installed package may lie within a repository of the user's.
    is_checkout = (_ROOT / ".git").exists()
    status = _git("status", "--porcelain", "--untracked-files=no") if is_checkout else None
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("flwr-echelon", *_PACKAGES)},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
        "git_commit": (_git("rev-parse", "HEAD") or None) if is_checkout else None,
        "git_modified": None if status is None else bool(status),
        "command": sys.argv,
    }


def lines() -> list[str]:
    """Return what a bug report needs of :func:`describe`, a line each."""
    found = describe()
    source = f", commit {found['git_commit']}" if found["git_commit"] else ""
    modified = ", modified" if found["git_modified"] else ""
    packages = {name: version or "not installed" for name, version in found["packages"].items()}
    packages["flwr-echelon"] += source + modified
    memory = "" if found["memory_bytes"] is None else f", {found['memory_bytes'] / 2**30:.0f} GiB"
    return [
        f"python {found['python']}",
        *(f"{name} {version}" for name, version in packages.items()),
        f"platform {found['platform']}",
        f"processor {found['cpu'] or 'unknown'}, {found['cpu_count']} cores{memory}",
        f"gpus {'; '.join(found['gpus']) or 'none'}",
    ]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str | None:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[str]:
    # nvidia-smi instead of torch: avoids a CUDA context and the import of torch.
    if shutil.which("nvidia-smi") is None:
        return []
    return (_output(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]) or "").splitlines()


def _git(*arguments: str) -> str | None:
    return _output(["git", "-C", str(_ROOT), *arguments])


def _output(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
