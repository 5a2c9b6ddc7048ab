"""Quasi-global momentum and tracking: ``python -m benchmarks.experiments.corrections --root data --seeds 3``.

D-PSGD on a ring, two classes per worker, otherwise as in :mod:`benchmarks.experiments.unlike`.
"""

import json
from pathlib import Path

from benchmarks.experiments.runner import arguments
from benchmarks.experiments.unlike import SHARDS, compare

RESULTS = Path(__file__).parents[1] / "results" / "corrections.json"
NAME = "two classes each"
CASES = {
    ("local", "none"): [],
    ("quasi_global", "none"): ["strategy.momentum_mixing=quasi_global"],
    ("local", "tracking"): ["strategy.correction=tracking"],
}


def main() -> None:
    """Run the cases, print their table and keep its numbers."""
    options = arguments(__doc__ or "")
    rows = compare(NAME, SHARDS[NAME], ("momentum", "correction"), CASES, options)
    if options.overrides:
        return  # another experiment than the one that the documentation quotes
    RESULTS.write_text(f"{json.dumps({'seeds': options.seeds, 'rows': rows}, indent=1)}\n")


if __name__ == "__main__":
    main()
