"""The `echelon` command: a table of subcommands, each with a parser of its own."""

import argparse
import sys
from collections.abc import Callable, Sequence

from echelon.deployment import register
from echelon.deployment.kit import __main__ as kit
from echelon.reports import __main__ as reports
from echelon.reports import environment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line on stderr for invalid input."""
    parser = argparse.ArgumentParser(
        prog="echelon", description="Look at runs, prepare deployments, see what is installed."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (meaning, _) in _COMMANDS.items():
        commands.add_parser(name, help=meaning, add_help=False)
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(given[:1])
    # What follows is parsed by the subcommand's own parser, also options such as --help.
    return _COMMANDS[options.command][1](given[1:], f"echelon {options.command}")


def _versions(arguments: Sequence[str], prog: str) -> int:
    argparse.ArgumentParser(prog=prog, description="Print versions and hardware, for a bug report.").parse_args(
        arguments
    )
    print("\n".join(environment.lines()))
    return 0


def _node(arguments: Sequence[str], prog: str) -> int:
    from echelon.deployment import node  # imports much of Flower

    return node.main(list(arguments))


_COMMANDS: dict[str, tuple[str, Callable[[Sequence[str], str], int]]] = {
    "kit": ("write one folder per machine of a deployment", kit.main),
    "node": ("take part in runs as a SuperNode; flags of flower-supernode", _node),
    "register": ("register the SuperNode keys of a folder", register.main),
    "report": ("show one run or compare several", reports.main),
    "versions": ("print versions and hardware, for a bug report", _versions),
}


if __name__ == "__main__":
    sys.exit(main())
