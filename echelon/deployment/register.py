"""Registration of SuperNode keys at a SuperLink: ``python -m echelon.deployment.register FOLDER CONNECTION``.

Calls ``flwr supernode register`` for every public key of a folder. Flower prints a node's id only once, so it is kept
beside the key: registering a folder again registers what is new and prints the same list of nodes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_BAD_INPUT = 2
# As Flower's SuperLink says it for a key that it knows.
_KNOWN = "already in use"
# As Flower's command says it while the SuperLink starts, which may take a while on a busy machine.
_NOT_THERE = "connection to the superlink is unavailable"
_SUPERLINK_SECONDS, _PAUSE_SECONDS = 60.0, 1.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class RegistrationError(RuntimeError):
    """A key that could not be registered; the message is one line that names it."""


def public_keys(folder: Path) -> list[Path]:
    """Return the public keys ``*.pub`` of a folder, ``node-2`` before ``node-10``.

    Raises
    ------
    RegistrationError
        If the folder has none.
    """
    found = sorted(folder.glob("*.pub"), key=_by_number)
    if not found:
        raise RegistrationError(f"{folder}: no public key *.pub there")
    return found


def register(keys: Sequence[Path], connection: str, environment: Mapping[str, str] = os.environ) -> list[int]:
    """Register public keys and return the ids of their nodes, in the same order.

    A SuperLink that does not answer yet is asked again for a minute.

    Parameters
    ----------
    keys : sequence of Path
        Public keys, as ``ssh-keygen -t ecdsa`` writes them. The id of a node is written beside its key, to ``*.id``.
    connection : str
        Name of a SuperLink in Flower's ``config.toml``.
    environment : mapping of str to str
        Variables of Flower's command; ``FLWR_HOME`` is the folder of ``config.toml``.

    Raises
    ------
    RegistrationError
        If a key is refused, or is registered but its id is not known here.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a command of Flower's takes seconds to start
        return list(pool.map(lambda key: _register(key, connection, environment), keys))


def _register(key: Path, connection: str, environment: Mapping[str, str]) -> int:
    beside = key.with_suffix(".id")
    flwr = Path(sys.executable).with_name("flwr")
    command = [str(flwr), "supernode", "register", str(key.resolve()), connection, "--format", "json"]
    until = time.monotonic() + _SUPERLINK_SECONDS
    while True:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        node, message = _read(done)
        if _NOT_THERE not in message.lower() or time.monotonic() > until:
            break
        time.sleep(_PAUSE_SECONDS)
    if node is not None:
        beside.write_text(f"{node}\n", encoding="utf-8")
        return node
    if _KNOWN not in message.lower():
        raise RegistrationError(f"{key} cannot be registered: {message}")
    if not beside.exists():
        raise RegistrationError(
            f"{key} was registered elsewhere, and Flower does not tell its node id: remove the node"
            f" (flwr supernode list, flwr supernode unregister ID), or write its id to {beside}"
        )
    return int(beside.read_text(encoding="utf-8"))


def _read(done: "subprocess.CompletedProcess[str]") -> tuple[int | None, str]:
    """Return the id of the registered node, or None and the reason in one line."""
    try:
        answer = json.loads(done.stdout)
        node = answer.get("node-id")
        message = str(answer.get("error-message", ""))
    except (ValueError, AttributeError):
        node, message = None, ""
    said = " ".join(_COLOUR.sub("", message or done.stderr or done.stdout).split())
    return (None if node is None else int(node)), said or f"flwr ended with status {done.returncode}"


def _by_number(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def main(arguments: Sequence[str] | None = None, prog: str = "python -m echelon.deployment.register") -> int:
    """Run the command line, called ``prog``; return 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(prog=prog, description="Register every SuperNode key of a folder.")
    parser.add_argument("folder", type=Path, help="folder with the public keys *.pub")
    parser.add_argument("connection", help="name of the SuperLink in Flower's config.toml")
    options = parser.parse_args(arguments)
    try:
        keys = public_keys(options.folder)
        nodes = register(keys, options.connection)
    except (RegistrationError, OSError, ValueError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return _BAD_INPUT
    for key, node in zip(keys, nodes, strict=True):
        print(f"{key.name}: node {node}")
    print(f"nodes=[{','.join(map(str, nodes))}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
