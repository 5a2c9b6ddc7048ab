"""`echelon kit`: write one folder per machine of a deployment, with the commands to start it."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from echelon.deployment.kit.folders import Deployment, write_kit

_BAD_INPUT = 2
_MOST_NODES = 1000
# Values that stand in scripts, units and compose files.
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?")
_PATH = re.compile(r"/[\w./-]*")
_DATA = re.compile(r"/[\w./{}-]*")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m echelon.deployment.kit") -> int:
    """Run the command line, called ``prog``; return 0, or 2 after one line on stderr for invalid input."""
    options = _parser(prog).parse_args(arguments)
    try:
        deployment = _deployment(options)
        unknown = write_kit(deployment, options.out)
    except (ValueError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return _BAD_INPUT
    if unknown:
        print(f"Not installed here, so machines install any version: {', '.join(sorted(unknown))}", file=sys.stderr)
    print((options.out / "README.txt").read_text(encoding="utf-8"), end="")
    return 0


def _deployment(options: argparse.Namespace) -> Deployment:
    """Return the deployment that options describe.

    Raises
    ------
    ValueError
        If one of them is invalid; the message names it.
    """
    for host in options.host:
        if not _HOST.fullmatch(host):
            raise ValueError(f"--host must be a host name or an address, without port; got {host!r}")
    if not 1 <= options.nodes <= _MOST_NODES:
        raise ValueError(f"--nodes must lie in 1..{_MOST_NODES}; got {options.nodes}")
    if not 1 <= options.port <= 65535:
        raise ValueError(f"--port must lie in 1..65535; got {options.port}")
    if not _PATH.fullmatch(options.place):
        raise ValueError(f"--place must be an absolute path of letters, digits and ._-/; got {options.place!r}")
    if options.data is not None and not _DATA.fullmatch(options.data):
        raise ValueError(f"--data must be an absolute path of letters, digits and ._-/{{}}; got {options.data!r}")
    place = options.place.rstrip("/")
    return Deployment(options.app, tuple(options.host), options.nodes, options.port, place, options.data)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Write one folder per machine of a deployment.")
    parser.add_argument("--app", type=Path, default=Path(), help="folder of the Flower app (default: this folder)")
    parser.add_argument("--nodes", type=int, required=True, help="number of SuperNodes")
    parser.add_argument(
        "--host", action="append", required=True, help="name or address of the SuperLink's machine; further ones too"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; new or empty")
    parser.add_argument("--port", type=int, default=8210, help="port of the SuperLink (default: 8210)")
    parser.add_argument("--place", default="/srv/echelon", help="folder of services (default: /srv/echelon)")
    parser.add_argument("--data", help="folder or file of a SuperNode's data; {rank} is replaced by its rank")
    return parser


if __name__ == "__main__":
    sys.exit(main())
