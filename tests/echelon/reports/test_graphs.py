"""Records refer to their graphs: lines stay short, and read back as they were."""

import json
from functools import partial
from pathlib import Path

import pytest

from echelon.reports.run_folder import RunFolder, RunFolderError
from strategies import ALDSGD, AllReduce
from tests import tiny
from tests.strategies.table import Factory
from tests.strategies.test_contract import evaluate

CONFIG = "seed: 1\n"
FIRST, SECOND = [[0, 1]], [[0, 1], [1, 2]]


def row(number: int, edges: object) -> dict[str, object]:
    return {"round": number, "virtual_seconds": 2.0 * number, "minibatches": [8, 8, 8], "edges": edges}


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_graph_is_written_once(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    records = [row(1, FIRST), row(2, SECOND), row(3, FIRST), row(4, "complete"), row(5, []), row(6, SECOND)]
    for record in records:
        folder.append_metrics(record)
    assert [record.get("graph") for record in lines(tmp_path)] == [0, 1, 0, None, 2, 1]
    assert lines(tmp_path, "graphs.jsonl") == [
        {"graph": 0, "edges": FIRST},
        {"graph": 1, "edges": SECOND},
        {"graph": 2, "edges": []},
    ]
    assert RunFolder.open(tmp_path).metrics == records


def test_a_continued_run_goes_on_counting(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, CONFIG) as folder:
        for number, edges in enumerate((FIRST, SECOND, []), start=1):
            folder.append_metrics(row(number, edges))
    with (tmp_path / "graphs.jsonl").open("a") as file:
        file.write('{"graph":3,"ed')
    with RunFolder.resume(tmp_path) as folder:
        folder.rewind(2, CONFIG)
        folder.append_metrics(row(3, [[0, 2]]))
        folder.append_metrics(row(4, SECOND))
        folder.amend_last({"consensus_accuracy": 0.5})
    assert [record["edges"] for record in RunFolder.open(tmp_path).metrics] == [FIRST, SECOND, [[0, 2]], SECOND]
    assert len(lines(tmp_path, "graphs.jsonl")) == 3


def test_edges_listed_in_the_records_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row(1, SECOND)) + "\n")
    assert RunFolder.open(folder.path).metrics == [row(1, SECOND)]


@pytest.mark.parametrize("graph", ["", "x\n", '{"edges": 5}\n', '{"edges": [[0, 3]]}\n', "[" * 100_000 + "\n"])
def test_a_graph_that_is_missing_or_none(graph: str, tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG).append_metrics(row(1, FIRST))
    (tmp_path / "graphs.jsonl").write_text(graph)
    message = (
        r"metrics\.jsonl line 1: graph must be the number of a line of graphs\.jsonl with edges of 3 workers; got 0"
    )
    with pytest.raises(RunFolderError, match=message):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("workers", [8, 100, 1000])
@pytest.mark.parametrize("make", [AllReduce, partial(ALDSGD, "exponential")])
def test_a_line_takes_less_than_100_bytes_per_worker(make: Factory, workers: int, tmp_path: Path) -> None:
    """Of an evaluated round with all fields, beside 1000 bytes for the names of fields and the numbers of the run."""
    grid = tiny.grid(workers, samples=4 * workers, devices=tiny.fleet(1.0, 0.7, 0.3))
    partition = tiny.partition(workers, samples=4 * workers)
    run = tiny.run(make, 1, workers, on=grid, partition=partition, start={"evaluate_fn": evaluate})
    folder = RunFolder.create(tmp_path, CONFIG)
    folder.append_metrics(run.records[0])
    assert (tmp_path / "metrics.jsonl").stat().st_size < 1000 + 100 * workers
    read = RunFolder.open(tmp_path).metrics[0]
    assert read["edges"] == run.records[0]["edges"]
    assert read["worker_loss"] == pytest.approx(run.records[0]["worker_loss"], rel=1e-5)
