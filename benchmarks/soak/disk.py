"""A small disk that is full at some time: a file system in memory, which only root may mount."""

import os
import subprocess
from pathlib import Path

FULL_DISK = ("full disk",) if os.geteuid() == 0 else ()
"""The kind of fault, for those who may mount."""


class SmallDisk:
    """A file system of a limited size.

    Parameters
    ----------
    folder : Path
        Where it is mounted; created if missing.
    kilobytes : int
        Its size.
    """

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=700,size={kilobytes}k", "soak", folder], check=True)

    def leave(self, kilobytes: int) -> None:
        """Change its size, so that so much is free."""
        used = os.statvfs(self._folder)
        size = (used.f_blocks - used.f_bfree) * used.f_frsize // 1024 + kilobytes
        subprocess.run(["mount", "-o", f"remount,size={size}k", self._folder], check=True)

    def unmount(self) -> None:
        """Remove it, with all that is on it."""
        subprocess.run(["umount", "--lazy", self._folder], check=True)
