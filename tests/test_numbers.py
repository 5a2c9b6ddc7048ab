"""The numbers of tables and sentences are those of the result file, or of the page, that the text names.

Elsewhere: docs/claims.md in test_claims.py, docs/choosing.md in test_choosing.py, docs/heartbeats.md in
test_own_examples.py, and the hero of the README in test_benchmarks.py.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import peer, scale, tracking
from benchmarks.experiments import liars
from benchmarks.soak import outcomes
from tests.repository import ROOT

RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {"claims.md", "choosing.md", "heartbeats.md", "configuration.md"}  # the last is generated
EXPERIMENTS = {
    "defaults": "al_dsgd",
    "gate": "al_dsgd",
    "selection": "rcd_sgd",
    "signals": "robust",
    "unlike": "d_psgd",
    "waiting": "non_blocking",
}
# Rows of experiments and timings that keep no results yet. A new table needs a file; these numbers may only fall.
WITHOUT_FILE = {
    "docs/algorithms/al_dsgd.md": 32,
    "docs/algorithms/d_psgd.md": 6,
    "docs/algorithms/matcha.md": 3,
    "docs/algorithms/non_blocking.md": 46,
    "docs/algorithms/rcd_sgd.md": 35,
    "docs/client.md": 7,
    "docs/deployment.md": 6,
    "docs/peer.md": 2,
    "docs/security.md": 6,
    "docs/simulation.md": 8,
}


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def sentence(page: str) -> str:
    return " ".join(text(page).split())


def line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def of_experiments() -> Iterator[tuple[str, str]]:
    """Yield pages and rows of the experiments whose files hold finished rows."""
    for name, page in EXPERIMENTS.items():
        tables = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for rows in (table for table in tables.values() if isinstance(table, list)):
            yield from ((f"docs/algorithms/{page}.md", line(row.values())) for row in rows)
    for rows in json.loads((RESULTS / "stragglers.json").read_text(encoding="utf-8")).values():
        yield from (("docs/algorithms/non_blocking.md", line(row)) for row in rows)
    yield from (("docs/algorithms/d_psgd.md", line(row)) for row in tracking.rows())
    runs = liars.results(liars.RESULTS)
    for shards in liars.SHARDS:
        yield from (("docs/algorithms/robust.md", line(row)) for row in liars.rows(runs, shards, 3))


def of_soak() -> Iterator[tuple[str, str]]:
    table = outcomes.table(outcomes.load(RESULTS / "soak.jsonl"))
    yield from (("docs/security.md", row) for row in table.splitlines())


BF16 = "all_reduce, echelon node, bf16"
OURS, STOCK, FLOWER = "all_reduce, echelon node", "all_reduce, flower-supernode", "Flower's FedAvg"


def measured_deployments() -> list[dict[str, Any]]:
    return [json.loads(row) for row in (RESULTS / "deployment.jsonl").read_text(encoding="utf-8").splitlines()]


def deployments() -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the first measurement of three nodes by model, database and app."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in measured_deployments():
        if row["nodes"] == 3:
            found.setdefault((row["model"], row["database"], row["app"]), row)
    return found


def overhead(model: str, database: str, app: str) -> float:
    return float(median(deployments()[model, database, app]["overheads"]))


def of_peers() -> Iterator[tuple[str, str]]:
    yield from (("docs/peer.md", row) for row in peer.table(peer.load(RESULTS / "peer.jsonl"))[2:])


COLUMNS = (("cnn", "disk"), ("cnn", "none"), ("resnet18", "disk"))
PLACES = {"disk": "on disk", "memory": "in `/dev/shm`", "none": "none"}


def of_deployments() -> Iterator[tuple[str, str]]:
    measured = deployments()
    ours, flower = ([overhead(*column, app) for column in COLUMNS] for app in (OURS, FLOWER))
    stock = [overhead(*column, STOCK) for column in COLUMNS[:2]]
    half = overhead("resnet18", "disk", BF16)
    superlink = [f"{median(measured[(*column, OURS)]['superlink']):.2f}" for column in COLUMNS]
    ratios = [f"**{one / other:.2g}**" for one, other in zip(ours, flower, strict=True)]
    for head, cells in (
        ("`all_reduce`, `echelon node`", [f"{each:.1f}" for each in ours]),
        ("`all_reduce`, `echelon node`, `wire=bf16`", ["-", "-", f"{half:.1f}"]),
        ("`all_reduce`, `flower-supernode`, persistent workers", [*(f"{each:.1f}" for each in stock), "-"]),
        ("Flower's FedAvg through `send_and_receive`, `flower-supernode`", [f"{each:.1f}" for each in flower]),
        ("`echelon node` / Flower's FedAvg", ratios),
        ("`echelon node` with `wire=bf16` / Flower's FedAvg", ["-", "-", f"**{half / flower[2]:.2g}**"]),
        ("SuperLink's own CPU seconds per round, `echelon node`", superlink),
    ):
        yield "docs/deployment.md", line([head, *cells])
    for row in [row for row in measured_deployments() if "database_mb" not in row][-3:]:
        spent = median(row["superlink"])
        cells = [str(row["nodes"]), f"{median(row['overheads']):.1f}", f"{spent:.2f}", f"{spent / row['nodes']:.2f}"]
        yield "docs/deployment.md", line(cells)


def of_databases() -> Iterator[tuple[str, str]]:
    """Yield the rows of the runs of 101 rounds: the overhead, and the size of the database."""
    for row in measured_deployments():
        if len(sizes := row.get("database_mb", [])) == 101:
            spent, shown = median(row["superlink"]), [f"{sizes[number - 1]:.2f}" for number in (1, 11, 51, 101)]
            cells = [f"{median(row['overheads']):.1f}", f"{spent:.2f}", f"{row['loads'][0]:.0f}"]
            yield "docs/deployment.md", line([PLACES[row["database"]], *cells, *(shown if any(sizes) else "----")])


def of_scale() -> Iterator[tuple[str, str]]:
    cases = json.loads((RESULTS / "scale.json").read_text(encoding="utf-8"))
    yield from (("docs/simulation.md", scale.row(case)) for found in cases.values() for case in found)


def of_readme() -> Iterator[tuple[str, str]]:
    """Yield the results of the README from the page that it names, rounded."""
    tables = re.split(r"^### ", text("docs/algorithms/non_blocking.md"), flags=re.MULTILINE)
    names = {"all_reduce": "all-reduce", "d_psgd": "D-PSGD", "matcha": "MATCHA, budget 0.5"}
    for name, shown in names.items():
        cells = [shown]
        for task in ("digits", "fashion_mnist"):
            (table,) = (part for part in tables if part.startswith(f"{task}, iid\n"))
            seconds = dict(re.findall(rf"^\| {name}, (\w+) \| ([\d.]+) ±", table, flags=re.MULTILINE))
            (speed,) = re.findall(rf"^\| {name}, non_blocking \| [^|]+ \| ([\d.]+) ± ([\d.]+) \|", table, re.MULTILINE)
            cells += [rounded(seconds["blocking"]), rounded(seconds["non_blocking"]), f"**{speed[0]}** ± {speed[1]}"]
        yield "README.md", line(cells)


def rounded(number: str) -> str:
    return f"{float(number) + 1e-9:.1f}"


TIED = [*of_experiments(), *of_soak(), *of_deployments(), *of_databases(), *of_peers(), *of_scale(), *of_readme()]


def test_rows_are_those_of_their_files() -> None:
    assert [(page, row) for page, row in TIED if row not in text(page)] == []


def test_sentences_on_the_deployment() -> None:
    readme, page = sentence("README.md"), sentence("docs/deployment.md")
    (ours, flower), (bare, bare_flower) = (
        [overhead("cnn", database, app) for app in (OURS, FLOWER)] for database in ("disk", "none")
    )
    assert f"is {ours:.1f} s with `echelon node`, compared with {flower:.1f} s" in readme
    assert f"database {bare:.1f} s compared with {bare_flower:.1f} s" in readme
    spent = [median(deployments()["cnn", database, OURS]["superlink"]) for database in ("disk", "none")]
    assert f"it is {ours / spent[0]:.1f} times with a database and {bare / spent[1]:.1f} times without" in page


def test_the_savings_of_the_readme_are_those_of_the_page() -> None:
    """All variants whose sizes follow the speeds."""
    row = re.compile(r"^\| (?!random, equal)[^|]+ \| [\d.]+ ± [\d.]+ \| \**(\d+) %", re.MULTILINE)
    saved = [int(share) for share in row.findall(text("docs/algorithms/rcd_sgd.md"))]
    assert len(saved) == 8
    assert f"saves {min(saved)} to {max(saved)} % of the time" in sentence("README.md")


def test_the_size_of_the_scripts_of_a_comparison() -> None:
    size = sum((ROOT / "echelon" / "reports" / name).stat().st_size for name in ("sort.js", "chart.js"))
    assert f"the page's scripts have {size / 1000:.0f} kB" in sentence("docs/reports.md")


def measured_rows(page: Path) -> list[str]:
    """Return the rows of tables in which a cell after the first begins with a decimal or a percentage."""
    measured = re.compile(r"\|.*\| *\**[+-]?\d+(\.\d| %)")
    return [row for row in page.read_text(encoding="utf-8").splitlines() if measured.match(row)]


def test_a_new_table_has_a_result_file() -> None:
    tied = {row for _, row in TIED}
    loose = Counter(
        str(page.relative_to(ROOT))
        for page in PAGES
        if page.name not in ELSEWHERE
        for row in measured_rows(page)
        if row not in tied
    )
    assert dict(loose) == WITHOUT_FILE
