"""The `echelon` command: `report` shows and compares runs, `node` is a SuperNode, `versions` says what is installed."""

import argparse
import sys
from collections.abc import Sequence

from echelon.reports import __main__ as reports
from echelon.reports import environment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line on stderr for invalid input."""
    parser = argparse.ArgumentParser(
        prog="echelon", description="Look at runs and at what is installed; take part in runs."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("report", help="show one run or compare several")
    commands.add_parser("node", help="take part in runs as a SuperNode; flags of flower-supernode")
    commands.add_parser("versions", help="print versions and hardware, for a bug report")
    given = sys.argv[1:] if arguments is None else list(arguments)
    # Parsed by the reports' own parser, also options such as --help.
    if given[:1] == ["report"]:
        return reports.main(given[1:], "echelon report")
    if given[:1] == ["node"]:
        from echelon.deployment import node  # imports much of Flower

        return node.main(given[1:])
    parser.parse_args(given)
    print("\n".join(environment.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
