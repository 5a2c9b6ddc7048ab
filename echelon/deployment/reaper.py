"""Kills a deployment's processes once the process that started them has ended, however that happened.

A program of its own, which imports nothing of Echelon: it reads a process group from each line of standard input, and
the end of the input is the end of the process that holds the other end of the pipe.
"""

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Read process groups until the input ends, then kill them."""
    for group in [int(line) for line in sys.stdin]:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
