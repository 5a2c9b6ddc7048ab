"""Check the published claims: ``python -m benchmarks.claims --root data [--setting quick] [--seeds 3]``.

Runs that are finished are not repeated, and the results are written after every seed: the command goes on where it
stopped. With ``--check`` it ends with status 1 if an effect that was clear in the results has changed its side.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.claims import verdict
from benchmarks.claims.effects import EFFECTS
from benchmarks.claims.settings import COMMON, SETTINGS, VARIANTS, place
from benchmarks.experiments.runner import parser, sweep

RESULTS, FIGURE = Path("benchmarks/results/claims.json"), Path("docs/figures/claims.png")
Found = dict[str, list[float]]


def main() -> int:
    """Run what is missing, print the table, and keep the numbers."""
    options = _options()
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    recorded: Found = before.get(options.setting, {})
    found: Found = {}
    for seeds in range(1, options.seeds + 1):
        found = _measure(argparse.Namespace(**{**vars(options), "seeds": seeds}))
        if not options.check and not options.overrides and seeds >= len(next(iter(recorded.values()), [])):
            RESULTS.write_text(json.dumps({**before, options.setting: found}, indent=1) + "\n")
            if options.setting == "cifar10":
                verdict.draw(found, FIGURE)
    print(f"\n### {options.setting}\n\n{verdict.table(found)}")
    turned = _turned(recorded, found) if options.check else []
    for name in turned:
        effect = EFFECTS[name]
        was, now = (verdict.number(float(np.mean(of[name])), effect.unit) for of in (recorded, found))
        print(f"{effect.claim}, {effect.text}: {now}, was {was}", file=sys.stderr)
    return int(bool(turned))


def _options() -> argparse.Namespace:
    known = parser(__doc__ or "")
    known.add_argument("--setting", default="cifar10", choices=SETTINGS, help="task and model of all runs")
    known.add_argument("--check", action="store_true", help="compare with the recorded results, and write none")
    return known.parse_args()


def _measure(options: argparse.Namespace) -> Found:
    """Return the effects' numbers, one per seed, by the effect's name."""
    root = [] if options.setting == "quick" else [f"task.root={options.root}"]
    common = [*COMMON, *SETTINGS[options.setting], *root]
    runs = sweep({place(options.setting, name): [*common, *own] for name, own in VARIANTS.items()}, options)
    of_seeds = [{name: runs[place(options.setting, name)][seed] for name in VARIANTS} for seed in range(options.seeds)]
    return {name: [round(effect.measure(of), 4) for of in of_seeds] for name, effect in EFFECTS.items()}


def _turned(recorded: Found, found: Found) -> list[str]:
    """Return the effects that were clear and are on the other side of nothing now, or are nothing."""
    if not recorded:
        raise SystemExit(f"{RESULTS} has no results of this setting to compare with; run without --check first")
    clear = (name for name, values in recorded.items() if verdict.is_clear(EFFECTS[name], values))

    def side(name: str, values: list[float]) -> float:
        return float(np.sign(np.mean(values) - EFFECTS[name].nothing))

    return [name for name in clear if side(name, found[name]) != side(name, recorded[name])]


if __name__ == "__main__":
    sys.exit(main())
