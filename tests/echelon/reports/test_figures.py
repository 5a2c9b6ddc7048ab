import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection

from echelon.reports import figures
from echelon.reports.figures import consensus, curves, graph, leaders, partition, style, timeline
from echelon.reports.leaders import followers
from echelon.reports.run_folder import RunFolder
from tests.repository import ROOT

NAMES = ["accuracy_loss", "timeline", "consensus", "graph", "leaders", "partition"]


@pytest.mark.parametrize(("workers", "rounds", "classes"), [(1, 1, 2), (64, 3, 100)])
def test_other_shapes_of_runs_draw(
    tmp_path: Path, make_run: Callable[..., RunFolder], workers: int, rounds: int, classes: int
) -> None:
    run = make_run(tmp_path, workers=workers, rounds=rounds, classes=classes, finished=False)
    drawn = figures.draw(run)
    assert list(drawn) == NAMES
    for figure in drawn.values():
        figure.savefig(io.BytesIO(), dpi=40)


def test_a_run_without_rounds_or_partition_has_no_figures(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "seed: 1\n")
    assert figures.write(RunFolder.open(tmp_path)) == []


def test_a_run_that_was_never_evaluated_shows_its_training_loss(run: RunFolder) -> None:
    drawn = curves.draw(run.metrics[:4])
    assert len(drawn.axes) == 2
    (line,) = drawn.axes[0].lines
    assert np.asarray(line.get_ydata()) == pytest.approx([row["train_loss"] for row in run.metrics[:4]])


def test_curves_show_consensus_mean_and_band(run: RunFolder) -> None:
    accuracy = curves.draw(run.metrics).axes[0]
    evaluated = [row for row in run.metrics if "worker_accuracy" in row]
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in accuracy.lines}
    assert lines["consensus model"] == pytest.approx([100 * row["consensus_accuracy"] for row in evaluated])
    assert lines["mean of workers"] == pytest.approx([100 * np.mean(row["worker_accuracy"]) for row in evaluated])
    band = np.asarray(accuracy.collections[0].get_paths()[0].vertices)[:, 1]
    assert band.min() == pytest.approx(100 * min(min(row["worker_accuracy"]) for row in evaluated))
    assert band.max() == pytest.approx(100 * max(max(row["worker_accuracy"]) for row in evaluated))
    assert accuracy.get_ylabel() == "Test accuracy (%)"


def test_absent_workers_leave_no_hole_in_the_mean(run: RunFolder) -> None:
    rows = [dict(row) for row in run.metrics]
    rows[4]["worker_accuracy"] = [None, 0.5, 0.25, None]
    rows = [row | {"worker_accuracy": row["worker_accuracy"][:4]} for row in rows if "worker_accuracy" in row]
    rows = [row | {"minibatches": [8] * 4, "worker_loss": row["worker_loss"][:4]} for row in rows]
    accuracy = curves.draw(rows).axes[0]
    assert np.asarray(accuracy.lines[0].get_ydata())[0] == pytest.approx(37.5)


def test_spans_fill_every_round(run: RunFolder) -> None:
    spans = timeline.spans(run.metrics)
    length = np.array([row["round_seconds"] for row in run.metrics])
    assert sum(spans.values()) == pytest.approx(np.repeat(length[:, None], 8, axis=1))
    first, fourth = run.metrics[0], run.metrics[3]
    assert spans["compute"][0] == pytest.approx(first["compute_seconds"])
    # Worker 7's last mini-batch ran into the end of the budget; it had to be sent by the end of the round.
    latest = first["round_seconds"] - first["communication_seconds"][7]
    end = min(first["budget_seconds"], latest)
    assert spans["dropped mini-batch"][0, 7] == pytest.approx(end - first["compute_seconds"][7])
    busy = first["compute_seconds"][0] + first["communication_seconds"][0]
    assert spans["idle"][0, 0] == pytest.approx(first["round_seconds"] - busy)
    assert fourth["present"] == [0, 1, 2, 3, 4, 6, 7]
    assert spans["not present"][3].nonzero()[0].tolist() == [5]


def test_blocking_work_drops_nothing(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    spans = timeline.spans(make_run(tmp_path, "d_psgd", "full_batch").metrics)
    assert not spans["dropped mini-batch"].any()
    assert (spans["idle"][0, :6] > 0.6 * spans["compute"][0, 7]).all()


def test_every_figure_says_which_run_it_shows(run: RunFolder) -> None:
    for name, figure in figures.draw(run).items():
        shown = " ".join(figure.get_suptitle().split())
        assert shown == "strategy al_dsgd, work non_blocking, task digits, workers 8, seed 0", name


def test_the_first_graphs_and_how_often_edges_were_active(run: RunFolder) -> None:
    first, *_, whole = graph.draw(run.metrics).axes
    edges, workers = first.collections
    assert isinstance(edges, LineCollection)
    assert isinstance(workers, PathCollection)
    assert len(edges.get_segments()) == len(run.metrics[0]["edges"])
    assert first.get_title() == "Round 1 and 9 more"
    edges = whole.collections[0]
    assert isinstance(edges, LineCollection)
    assert len(edges.get_segments()) == 10
    assert np.asarray(edges.get_linewidth()) == pytest.approx(0.5 + 2 * 20 / 30)


@pytest.mark.parametrize(("present", "active"), [(range(5), 10), (range(4), 6), (range(30), 435)])
def test_a_complete_graph_joins_the_workers_present(present: range, active: int) -> None:
    workers = max(5, len(present))
    record = {"round": 1, "minibatches": [1] * workers, "present": list(present), "edges": "complete"}
    for axes in graph.draw([record]).axes[:2]:
        if workers <= 24:
            (edges,) = (drawn for drawn in axes.collections if isinstance(drawn, LineCollection))
            assert len(edges.get_segments()) == active
        else:
            assert np.asarray(axes.images[0].get_array()).sum() == 2 * 100 * active


def test_leaders_are_shown_over_the_rounds(run: RunFolder) -> None:
    by_loss, by_degree = leaders.draw(run.metrics).axes[:2]
    for t in (0, 12, 29):
        best, degree = followers(run.metrics[t])
        for axes, expected in ((by_loss, best), (by_degree, degree)):
            assert np.asarray(axes.images[0].get_array())[:, t].tolist() == [expected[rank] for rank in range(8)]
    assert list(by_loss.images[0].get_extent()) == [0.5, 30.5, 7.5, -0.5]


def test_a_run_without_leaders_has_no_figure_of_them(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    assert figures.names(make_run(tmp_path, "d_psgd", rounds=1)) == [name for name in NAMES if name != "leaders"]


def test_counts_have_whole_ticks(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    drawn = figures.draw(make_run(tmp_path, workers=3, rounds=2))
    counts = ("Round", "Samples", "Followers")
    axes = [axes for figure in drawn.values() for axes in figure.axes]
    found = [axis for each in axes for axis in (each.xaxis, each.yaxis) if axis.get_label().get_text() in counts]
    assert len(found) == 7
    assert all(tick % 1 == 0 for axis in found for tick in axis.get_majorticklocs())


def test_partition_shows_counts_and_sizes(run: RunFolder) -> None:
    assert run.partition is not None
    axes = partition.draw(run.partition).axes
    shown = [int(text.get_text()) for text in axes[0].texts]
    assert shown == [count for row in run.partition["class_counts"] for count in row]
    assert [round(bar.get_width()) for bar in axes[1].patches] == run.partition["sizes"]  # type: ignore[attr-defined]


def test_partition_names_its_classes(run: RunFolder) -> None:
    assert run.partition is not None
    names = ["T-shirt/top", "$x^2$", *"abcdefgh"]
    axes = partition.draw(run.partition | {"class_names": names}).axes
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["T-shirt/top", r"\$x^2\$", *"abcdefgh"]


def test_partition_shows_where_the_samples_of_each_worker_lie() -> None:
    places = {"x": [0.0, 1.0, 2.0, 3.0], "y": [0.0, 0.0, 1.0, 1.0], "rank": [0, 1, 1, 1], "class": [1, 0, 1, 1]}
    described = {"sizes": [1, 3], "class_counts": [[0, 1], [1, 2]], "quality": {"projection": places}}
    drawn = partition.draw(described | {"class_names": ["odd", "even"]})
    panels = [axes for axes in drawn.axes if axes.get_title().startswith("Worker")]
    assert [axes.get_title() for axes in panels] == ["Worker 0", "Worker 1"]
    assert [len(np.asarray(axes.collections[1].get_offsets())) for axes in panels] == [1, 3]
    assert [text.get_text() for text in drawn.subfigs[1].legends[0].get_texts()] == ["odd", "even"]


def test_partition_without_labels_shows_sizes() -> None:
    (axes,) = partition.draw({"sizes": [3, 5]}).axes
    assert len(axes.patches) == 2


def test_consensus_shows_distance_and_drift(run: RunFolder) -> None:
    left = consensus.draw(run.metrics).axes[0]
    distance, drift = (np.asarray(line.get_ydata()) for line in left.lines)
    assert distance == pytest.approx([row["consensus_distance"] for row in run.metrics])
    assert drift == pytest.approx([row["mean_drift"] for row in run.metrics])
    assert left.get_yscale() == "log"


def test_drawing_touches_no_global_state() -> None:
    program = "import sys, echelon.reports.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", ["$x^$", "$\\frac{1}{0", "a$b$c", "$$"])
def test_a_label_is_drawn_as_written(name: str) -> None:
    drawn = []
    for text, parse_math in ((style.plain(name), True), (name, False)):
        figure = style.figure(2, 1)
        figure.text(0.1, 0.5, text, parse_math=parse_math)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="raw")
        drawn.append(buffer.getvalue())
    assert drawn[0] == drawn[1]
