"""What one worker with a false loss does under each signal of leaders: ``python -m benchmarks.experiments.signals``.

AL-DSGD as in :mod:`benchmarks.experiments.liars`, IID shards: one of eight workers always reports a training loss of 0,
and sends its honest model or zeros. Mean accuracy of the honest workers' final models on the test samples; the
difference to the same signal without a liar is paired by seed.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.experiments.liars import Run, honest_accuracy
from benchmarks.experiments.paired import points
from benchmarks.experiments.runner import keep, print_table, spread

RESULTS = Path(__file__).parents[1] / "results" / "signals.json"
SIGNALS = {
    "train_loss": ["strategy.signal=train_loss"],
    "ema": ["strategy.signal=ema"],
    "random": ["strategy.signal=random"],
    "held_out": ["strategy.gate=false"],
    "held_out, gate": [],
}
LIES = ("honest", "false loss", "false loss, zeros")


def main() -> None:
    """Do the runs, print their table and keep its numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default=5, type=int, help="number of seeds")
    parser.add_argument("overrides", nargs="*", help="overrides for every run, such as rounds=5 for a quick test")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [_row(signal, options.seeds, options.overrides) for signal in SIGNALS]
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    keep(RESULTS, options, {"rows": rows})


def _row(signal: str, seeds: int, overrides: list[str]) -> dict[str, str]:
    found = {
        lie: np.array(
            [
                honest_accuracy(Run("iid", lie, "al_dsgd", False, seed), [*SIGNALS[signal], *overrides])
                for seed in range(seeds)
            ]
        )
        for lie in LIES
    }
    row = {"signal": signal}
    for lie, accuracy in found.items():
        row[f"{lie} %"] = spread(accuracy.tolist(), 1, 100)
        if lie != "honest":
            row[f"{lie}, points"] = points(accuracy - found["honest"])
    return row


if __name__ == "__main__":
    main()
