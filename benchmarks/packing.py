"""What a message and its reply cost as one record, and as one array, by size: where ``pack`` should change over.

What an empty poll costs, which bounds how often nodes may ask, is printed first.

    python -m benchmarks.packing [--no-database] [--messages 4]

A SuperLink and one of Echelon's nodes on this machine (TLS, registered key) send arrays forth and back
(``benchmarks/echo``), the two forms in turns. Medians in seconds, and CPU seconds of the SuperLink's process.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.supernode.start_client_internal import _init_connection
from rich.console import Console
from rich.table import Table

from benchmarks.deployment import cpu_seconds
from echelon.deployment.loopback import HOST, Loopback

_POLLS = 100


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=4)
    parser.add_argument("--no-database", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="echelon-") as name:
        folder, app = Path(name), Path(__file__).with_name("echo")
        with Loopback(folder, app, database=not arguments.no_database) as deployment:
            deployment.register("node", "poller")
            print(f"an empty poll: {1000 * empty_poll(deployment):.1f} ms of the SuperLink's CPU time")
            deployment.start_node("node", "rank=0")
            out = folder / "echo.jsonl"
            config = {"superlink": str(deployment.pid("superlink")), "messages": str(arguments.messages)}
            deployment.run(**config, out=str(out)).wait()
            if not out.exists():
                raise SystemExit(deployment.log("run"))
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    table = Table("MB", "form", "seconds", "SuperLink, CPU-s", title=f"load {os.getloadavg()[0]:.0f}")
    for line in lines:
        row = (f"{line['megabytes']:g}", line["form"], f"{line['seconds']:.2f}", f"{line['superlink']:.2f}")
        table.add_row(*row)
    Console(width=80).print(table)
    return 0


def empty_poll(deployment: Loopback) -> float:
    """Return the CPU seconds of a SuperLink per poll of a node for which there is no message."""
    key = load_ssh_private_key((deployment.folder / "poller").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    address, authority = f"{HOST}:{deployment.port}", deployment.certificates.authority.read_bytes()
    with _init_connection(address, False, authority, (key, key.public_key())) as connection:
        before = cpu_seconds(deployment.pid("superlink"))
        for _ in range(_POLLS):
            assert connection[1]() is None
        return (cpu_seconds(deployment.pid("superlink")) - before) / _POLLS


if __name__ == "__main__":
    sys.exit(main())
