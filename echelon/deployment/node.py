"""A SuperNode that loses no time: ``python -m echelon.deployment.node``, with the flags of ``flower-supernode``.

Flower's SuperNode sleeps 3 s if it finds no message and 0.5 s before it looks for a reply, and starts a process per
message. This one uses Flower's own connection, registration and TLS in a loop that asks often, and keeps a process per
run. Where Flower is not as expected, or a flag asks for what this loop does not do, it becomes ``flower-supernode``.
"""

import os
import sys
from contextlib import closing
from logging import INFO
from pathlib import Path
from typing import Any, NoReturn

from echelon.deployment import flower


def main(arguments: list[str]) -> int:
    """Run the node until a signal ends it; return the exit status.

    Parameters
    ----------
    arguments : list of str
        Those of ``flower-supernode``.
    """
    reason = flower.difference()
    if reason is None:
        config = _parsed(arguments)
        reason = _unsupported(config)
    if reason is not None:
        become_stock(arguments, reason)
    return _serve(config)


def become_stock(arguments: list[str], reason: str) -> NoReturn:
    """Replace this process by Flower's SuperNode, with one line that says why."""
    print(f"echelon node: {reason}; starting flower-supernode instead", file=sys.stderr, flush=True)
    program = Path(sys.executable).with_name("flower-supernode")
    # It looks for its own programs in PATH.
    os.environ["PATH"] = f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.execv(program, [str(program), *arguments])


def _parsed(arguments: list[str]) -> Any:
    """Parse the flags as Flower does, from the command line of the process."""
    from flwr.supernode.cli.flower_supernode import _parse_supernode_lifespan_config

    sys.argv[1:] = arguments
    return _parse_supernode_lifespan_config()


def _unsupported(config: Any) -> str | None:
    if config.isolation != "subprocess":
        return f"--isolation {config.isolation} is not supported"
    if config.runtime_dependency_install:
        return "--allow-runtime-dependency-installation is not supported"
    if config.insecure and config.authentication_keys is not None:
        return "--insecure and --auth-supernode-private-key exclude each other"
    return None


def _serve(config: Any) -> int:
    from flwr.supercore import log
    from flwr.supercore.exit import register_signal_handlers
    from flwr.supercore.grpc_health import run_health_server_grpc_no_tls
    from flwr.supercore.telemetry import EventType
    from flwr.supernode.start_client_internal import _init_connection

    from echelon.deployment.serving import Connection, Node

    address = config.health_server_address
    health = [] if address is None else [run_health_server_grpc_no_tls(address)]
    # It exits through SystemExit, raised wherever the loop is.
    register_signal_handlers(EventType.RUN_SUPERNODE_LEAVE, "SuperNode terminated gracefully.", health)
    with _init_connection(
        config.server_address,
        config.insecure,
        config.root_certificates,
        config.authentication_keys,
        config.max_retries,
        config.max_wait_time,
    ) as connection:
        log(INFO, "SuperNode ID: %s", connection[0])
        node = Node(Connection(*connection).patient(), config.node_config, config.trusted_entities)
        with closing(node):
            node.serve()
    return 1  # Flower has logged an error and has closed the connection


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
