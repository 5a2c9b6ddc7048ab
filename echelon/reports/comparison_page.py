"""A comparison as one self-contained HTML page."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from echelon.core.printable import printable
from echelon.reports import charts, page
from echelon.reports.comparison import Comparison
from echelon.reports.run_groups import Group, common, differences

_CAPTIONS = {
    "times": "Virtual time to the same level. Bars are means, dots are runs.",
    "activity": "Shares of the workers' time by activity.",
}


def render(comparison: Comparison, figures: Mapping[str, Figure]) -> str:
    """Return the page.

    Parameters
    ----------
    comparison : Comparison
        Data of the table.
    figures : mapping of str to Figure
        As `echelon.reports.figures.comparison.draw` returns them; inlined as SVG, but for the curves.
    """
    groups = comparison.groups
    title = f"Comparison of {len(groups)} configurations" if len(groups) > 1 else "One configuration"
    shared = common(groups)
    parts = {
        "baseline": escape(comparison.baseline.label),
        "results": _results(comparison),
        "curves": charts.render(groups),
        "figures": page.lines(
            _figure(figures[name], caption) for name, caption in _CAPTIONS.items() if name in figures
        ),
        "choices": page.choices(shared),
        "common": page.keys(shared),
        "differences": _differences(groups),
        "runs": _runs(groups),
    }
    return page.document(title, page.fill("comparison.html", parts), ["sort.js", "chart.js"], "img-src data:")


def _results(comparison: Comparison) -> str:
    headings = ["Configuration", "Runs", *(column.heading for column in comparison.columns)]
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(heading)}</button></th>'
        for heading in headings
    )
    rows = []
    for group, cells in zip(comparison.groups, comparison.cells, strict=True):
        numbers = "".join(
            _cell(column.write(cell), cell.mean) for column, cell in zip(comparison.columns, cells, strict=True)
        )
        rows.append(
            f'<tr><th scope="row" data-value="{escape(group.label)}">{escape(group.label)}</th>'
            f"{_cell(str(len(group.runs)), len(group.runs))}{numbers}</tr>"
        )
    return f"<thead><tr>{head}</tr></thead>\n<tbody>\n{page.lines(rows)}\n</tbody>"


def _cell(shown: str, value: float | None) -> str:
    return f'<td data-value="{"" if value is None else value}">{escape(shown)}</td>'


def _figure(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    # Without a date, the page is reproducible.
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return page.figure(f"data:image/svg+xml;base64,{data}", caption)


def _differences(groups: Sequence[Group]) -> str:
    head = "".join(f'<th scope="col">{escape(group.label)}</th>' for group in groups)
    rows = [
        f'<tr><th scope="row"><code>{escape(key)}</code></th>'
        + "".join(f"<td>{escape(value)}</td>" for value in values)
        + "</tr>"
        for key, values in differences(groups)
    ]
    if not rows:
        return "<tbody><tr><td>The configurations differ only in their seeds.</td></tr></tbody>"
    return f'<thead><tr><th scope="col">Key</th>{head}</tr></thead>\n<tbody>\n{page.lines(rows)}\n</tbody>'


def _runs(groups: Sequence[Group]) -> str:
    rows = [
        f'<tr><th scope="row"><code>{escape(printable(str(run.path)))}</code></th><td>{escape(group.label)}</td>'
        f"<td>{escape(str(run.config.get('seed', '–')))}</td>"
        f"<td>{len(run.metrics)}</td><td>{'finished' if run.finished else 'unfinished'}</td></tr>"
        for group in groups
        for run in group.runs
    ]
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Folder", "Configuration", "Seed", "Rounds", "State"))
    return f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{page.lines(rows)}\n</tbody>"
