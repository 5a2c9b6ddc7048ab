"""Judge an effect in words, and write the table and the figure of all effects."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.claims.effects import EFFECTS, Effect
from echelon.reports.figures import style

Values = Mapping[str, Sequence[float]]


def error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; infinite for one value."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")


def is_clear(effect: Effect, values: Sequence[float]) -> bool:
    """Return whether the mean is at least two standard errors from no effect."""
    return abs(float(np.mean(values)) - effect.nothing) >= 2 * error(values)


def judge(effect: Effect, values: Sequence[float]) -> str:
    """Return the verdict: what the paper's number has become, or on which side of nothing a control lies."""
    if len(values) == 1:
        return "one seed: no verdict"
    if not is_clear(effect, values):
        return "no effect seen"
    mean = float(np.mean(values))
    if effect.published is None:
        return "more" if mean > effect.nothing else "less"
    share = (mean - effect.nothing) / (effect.published - effect.nothing)
    if share < 0:
        return "the opposite"
    return "confirmed" if share >= 0.75 else "smaller than published"


def number(value: float, unit: str) -> str:
    """Return a value with its unit."""
    return f"{value:.2f} x" if unit == "x" else f"{value:+.1f} {unit}"


def table(found: Values) -> str:
    """Return the Markdown table of the effects that were measured."""
    lines = ["| claim | compared | published | ours | seeds | verdict |", "|---|---|---|---|---|---|"]
    for name, values in found.items():
        effect = EFFECTS[name]
        published = "" if effect.published is None else number(effect.published, effect.unit)
        spread = f" ± {error(values):.{2 if effect.unit == 'x' else 1}f}" if len(values) > 1 else ""
        own, _, unit = number(float(np.mean(values)), effect.unit).partition(" ")
        cells = (effect.claim, effect.text, published, f"{own}{spread} {unit}", str(len(values)), judge(effect, values))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: Values, path: Path) -> None:
    """Draw each published effect, as a share of the paper's number, and save the picture."""
    shown = {name: values for name, values in found.items() if EFFECTS[name].published is not None}
    figure = style.figure(7.5, 1.2 + 0.34 * len(shown))
    axes = figure.subplots()
    for row, (name, values) in enumerate(shown.items()):
        effect = EFFECTS[name]
        assert effect.published is not None
        shares = (np.array(values) - effect.nothing) / (effect.published - effect.nothing)
        axes.plot(shares, [row] * len(shares), "o", color=style.SKY, markersize=4, label="a seed" if row == 0 else None)
        axes.plot(shares.mean(), row, "D", color=style.BLUE, markersize=7, label="mean" if row == 0 else None)
    axes.axvline(0, color=style.BLACK, linewidth=0.8)
    axes.axvline(1, color=style.VERMILLION, linewidth=1.4, label="published")
    style.dress(axes, x="Share of the published effect (0: none)", title="Published effects, measured again")
    axes.set_yticks(range(len(shown)), [f"{EFFECTS[name].claim}: {EFFECTS[name].text}" for name in shown])
    axes.invert_yaxis()
    axes.legend(loc="best", fontsize=8)
    style.save(figure, path)
