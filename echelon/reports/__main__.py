"""`echelon report`: show one run, also while it trains, or compare several."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from echelon.core.printable import fitted, printable
from echelon.reports import tables, text
from echelon.reports.comparison import Comparison, Level, compare
from echelon.reports.progress.plain import summary_table
from echelon.reports.run_folder import RunFolder, RunFolderError
from echelon.reports.run_groups import find, find_runs, group

_BAD_INPUT = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_INPUT, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m echelon.reports") -> int:
    """Run the command line, called ``prog``; return 0, or 2 after one line on stderr for invalid input."""
    options = _parser(prog).parse_args(arguments)
    try:
        if options.command == "show":
            show(options.run, as_csv=options.csv)
        elif options.command == "serve":
            serve_page(options.run, options.host, options.port)
        else:
            levels = _levels(options.loss, options.accuracy)
            compare_runs(options.runs, options.out, levels, options.baseline, as_csv=options.csv)
    except (RunFolderError, OSError) as error:
        print(fitted(f"{prog}: {printable(str(error))}", sys.stderr), file=sys.stderr)
        return _BAD_INPUT
    return 0


def show(path: str | Path, *, as_csv: bool = False) -> None:
    """Print the state and result of a run and draw its figures.

    Parameters
    ----------
    path : str or Path
        A run folder, finished or not.
    as_csv : bool
        Also write its records to ``metrics.csv`` in the folder.
    """
    from echelon.reports import figures  # importing matplotlib takes a second; report errors first

    run = RunFolder.open(path)
    if run.summary is not None:
        Console().print(summary_table(run.summary))
    else:
        print(f"{printable(str(path))}: unfinished, {len(run.metrics)} of {run.config.get('rounds', '?')} rounds")
    if run.metrics:
        line = text.round_line(run.metrics[-1], int(run.config.get("rounds", 0)), int(run.config.get("workers", 0)))
        print(f"Last: {line}")
    for figure in figures.write(run):
        print(printable(str(figure)))
    if as_csv:
        tables.write_metrics([run], run.path / "metrics.csv")
        print(printable(str(run.path / "metrics.csv")))


def serve_page(path: Path, host: str, port: int) -> None:
    """Serve the live page of a run until Ctrl-C."""
    from echelon.reports import serve

    serve.serve(path, host, port)


def compare_runs(
    paths: Sequence[str | Path],
    out: Path | None,
    levels: Sequence[Level] = (),
    baseline: str | None = None,
    *,
    as_csv: bool = False,
) -> Comparison:
    """Print a comparison table and write figures, page and CSV.

    Parameters
    ----------
    paths : sequence of str or Path
        Run folders and sweep folders.
    out : Path, optional
        Folder for ``index.html``, ``curves.png``, ``times.png``, ``activity.png``, and with ``as_csv`` for
        ``comparison.csv`` and ``metrics.csv``. None: only the table.
    levels : sequence of Level
        As for `echelon.reports.comparison.compare`.
    baseline : str, optional
        Label or run folder of the baseline group of speeds; the first group by default.
    as_csv : bool
        Also write CSV files.

    Raises
    ------
    RunFolderError
        If a run cannot be read, no run has a finished round, or the baseline is unknown.
    """
    if as_csv and out is None:
        raise RunFolderError("--csv needs --out")
    runs = find_runs(paths)
    for run in runs:
        if not run.metrics:
            print(f"skipped {printable(str(run.path))}: no finished round yet", file=sys.stderr)
    groups = group([run for run in runs if run.metrics])
    if not groups:
        raise RunFolderError("no run has a finished round")
    result = compare(groups, find(groups, baseline) if baseline else groups[0], levels)
    Console().print(tables.comparison_table(result))
    if out is not None:
        _write(result, out, as_csv=as_csv)
        print(out / "index.html")
    return result


def _write(result: Comparison, out: Path, *, as_csv: bool) -> None:
    from echelon.reports import comparison_page
    from echelon.reports.figures import comparison, style

    out.mkdir(parents=True, exist_ok=True)
    figures = comparison.draw(result)
    for name, figure in figures.items():
        style.save(figure, out / f"{name}.png")
    (out / "index.html").write_text(comparison_page.render(result, figures), encoding="utf-8")
    if as_csv:
        tables.write_comparison(result, out / "comparison.csv")
        tables.write_metrics([run for group in result.groups for run in group.runs], out / "metrics.csv")


def _levels(loss: float | None, accuracy: float | None) -> list[Level]:
    if loss is not None and not loss > 0:
        raise RunFolderError(f"--loss must be positive; got {loss}")
    if accuracy is not None and not 0 < accuracy <= 1:
        raise RunFolderError(f"--accuracy must lie in (0, 1]; got {accuracy}")
    return [Level(name, value) for name, value in (("loss", loss), ("accuracy", accuracy)) if value is not None]


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be an integer in 0..65535; got {text}")
    return int(text)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=prog, description="Show one run, also live, or compare several.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("show", help="print the result of a run and draw its figures")
    one.add_argument("run", help="run folder")
    one.add_argument("--csv", action="store_true", help="write metrics.csv into the run folder")
    live = commands.add_parser("serve", help="serve a page that shows a run while it trains, to this machine only")
    live.add_argument("run", type=Path, help="run folder, or a folder of run folders: the newest is shown")
    live.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    live.add_argument("--port", type=_port, default=8000, help="port (default: 8000; 0 takes a free one)")
    many = commands.add_parser("compare", help="compare runs: table, figures and a page")
    many.add_argument("runs", nargs="+", metavar="run", help="run folder, or folder of a --multirun sweep")
    many.add_argument(
        "--out", type=Path, help="folder for index.html and figures; by default only the table is printed"
    )
    many.add_argument("--loss", type=float, help="target training loss for times and speeds")
    many.add_argument("--accuracy", type=float, help="target consensus accuracy in (0, 1] for times and speeds")
    many.add_argument("--baseline", help="run folder or label of the baseline of speeds (default: the first)")
    many.add_argument("--csv", action="store_true", help="write comparison.csv and metrics.csv into --out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
