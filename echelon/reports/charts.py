"""The curves of a comparison for the script of its page, which draws them and lets them be read and enlarged."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from echelon.reports.figures import style
from echelon.reports.figures.comparison import over_seeds
from echelon.reports.run_groups import Group

_MOST_POINTS = 400  # of a line: a chart has fewer pixels than twice as many
_DIGITS = 5
_QUANTITIES = (
    ("train_loss", "Training loss (nats)", 1.0),
    ("consensus_accuracy", "Consensus accuracy (%)", 100.0),
)


def render(groups: Sequence[Group]) -> str:
    """Return a legend, a figure for each chart, and what they show: means and ranges over the seeds of each group."""
    found = [
        (f"{label} over {'virtual time' if x == 'virtual_seconds' else 'rounds'}", _chart(groups, x, x_label, y, scale))
        for y, label, scale in _QUANTITIES
        for x, x_label in style.TIMES
    ]
    looks = [_look(number) for number in range(len(groups))]
    shown = {
        "labels": [group.label for group in groups],
        "looks": looks,
        "charts": [chart for _, chart in found],
    }
    legend = "".join(_key(group.label, look) for group, look in zip(groups, looks, strict=True))
    charts = "\n".join(_figure(number, title) for number, (title, chart) in enumerate(found) if chart["lines"])
    # In a script, nothing but "</script>" and "<!--" could end the text.
    text = json.dumps(shown, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<div id="legend" role="group" aria-label="Lines shown">{legend}</div>\n'
        f'<div class="charts">\n{charts}\n</div>\n'
        f'<script type="application/json" id="curves">{text}</script>'
    )


def _chart(groups: Sequence[Group], x: str, label: str, y: str, scale: float) -> dict[str, Any]:
    courses = [(number, over_seeds(group, x, y)) for number, group in enumerate(groups)]
    lines: list[dict[str, Any]] = []
    for number, course in courses:
        if course is not None:
            at, *values = course
            kept = np.unique(np.linspace(0, len(at) - 1, min(len(at), _MOST_POINTS)).round().astype(int))
            low, mean, high = (_short(scale * value[kept]) for value in values)
            lines.append({"group": number, "at": _short(at[kept]), "low": low, "mean": mean, "high": high})
    every = [value for line in lines for value in line["low"] + line["high"]]
    return {"x": label, "lines": lines, "log": y == "train_loss" and style.is_wide(every)}


def _short(values: Any) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def _look(number: int) -> dict[str, str]:
    look = style.line(number)
    dash = "" if look["linestyle"] == "-" else " ".join(str(2 * part) for part in look["linestyle"][1])
    return {"colour": "currentColor" if look["color"] == style.BLACK else look["color"], "dash": dash}


def _key(label: str, look: dict[str, str]) -> str:
    line = f'<line x2="32" y1="5" y2="5" stroke="{look["colour"]}" stroke-width="3" stroke-dasharray="{look["dash"]}"/>'
    sample = f'<svg width="32" height="10" aria-hidden="true">{line}</svg>'
    return f'<button type="button" aria-pressed="true">{sample} {escape(label)}</button>'


def _figure(number: int, title: str) -> str:
    return (
        f'<figure data-chart="{number}"><figcaption>{title}'
        '<button type="button" class="reset" hidden>Show all</button></figcaption>'
        f'<div class="chart" id="chart-{number}" role="group" aria-label="{title}" tabindex="0"></div>'
        "<output></output></figure>"
    )
