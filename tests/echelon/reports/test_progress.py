import io

import pytest
from rich.console import Console

from echelon.reports import progress
from echelon.reports.leaders import followers
from echelon.reports.progress.live import Live
from echelon.reports.progress.workers import state
from tests.echelon.reports.synthetic import records, summary_of


def terminal(width: int, height: int = 24) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None, record=True)


def plain(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def frame(console: Console, workers: int, rounds: int = 7) -> list[str]:
    """Return the lines of the live view after some rounds."""
    view = Live(console)
    view.start(30, workers)
    for row in records("al_dsgd", "non_blocking", 0, workers=workers)[:rounds]:
        view.round(row)
    with console.capture() as capture:
        console.print(view)
    return capture.get().splitlines()


def test_plain_prints_one_line_per_round() -> None:
    console = plain()
    rows = records("al_dsgd", "non_blocking", 0, rounds=7)
    with progress.make("plain", console) as view:
        with view.stage("Starting Ray"):
            pass
        view.start(7, 8)
        for row in rows:
            view.round(row)
        view.finish(summary_of(rows))
    lines = printed(console).splitlines()
    assert lines[0] == "Starting Ray ..."
    assert lines[1] == "Starting Ray: done after 0.0 s"
    assert lines[2].startswith("round 1/7  virtual 8.28 s")
    assert "present 8/8" in lines[2]
    assert "accuracy" not in lines[2]
    assert "present 7/8" in lines[5]
    assert f"accuracy {100 * rows[4]['consensus_accuracy']:.1f} %" in lines[6]
    assert lines[8].endswith("present 7/8  rejected 1")
    assert any("Consensus accuracy" in line for line in lines[9:])


def test_none_prints_nothing() -> None:
    console = plain()
    rows = records("d_psgd", "full_batch", 0, rounds=5)
    with progress.make("none", console) as view, view.stage("Starting Ray") as advance:
        advance(1, 2)
        view.start(5, 8)
        view.round(rows[0])
        view.finish(summary_of(rows))
    assert printed(console) == ""


def test_auto_is_live_on_a_terminal_only() -> None:
    assert isinstance(progress.make("auto", terminal(80)), Live)
    assert type(progress.make("auto", plain())) is type(progress.make("plain", plain()))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="progress must be one of auto, live, plain, none; got loud"):
        progress.make("loud")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["live", "plain"])
def test_an_exception_passes_and_marks_its_stage(kind: progress.Kind) -> None:
    console = terminal(80) if kind == "live" else plain()
    with pytest.raises(RuntimeError, match="no network"):
        enter_failing_stage(kind, console)
    out = printed(console)
    assert ("✗ Downloading" if kind == "live" else "Downloading: failed after 0.0 s") in out
    if kind == "live":
        assert out.endswith("\x1b[?25h")  # the cursor is visible again


def enter_failing_stage(kind: progress.Kind, console: Console) -> None:
    with progress.make(kind, console) as view, view.stage("Downloading") as advance:
        advance(1, 3)
        raise RuntimeError("no network")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("workers", [8, 64])
def test_live_fits_the_terminal(width: int, workers: int) -> None:
    lines = frame(terminal(width), workers)
    assert len(lines) <= 22
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("Round 7/30")
    assert "wall 1.4 s" in lines[0]
    assert lines[2].startswith("Virtual time 5")
    assert "workers 44." in lines[1]
    assert sum(line.lstrip()[:1].isdigit() for line in lines) == (8 if workers == 8 else 14)
    assert any("… and 50 more: 1 to 8 mini-batches, idle" in line for line in lines) == (workers == 64)


def test_live_names_hidden_workers_that_were_not_present() -> None:
    row = records("d_psgd", "full_batch", 0, workers=64)[0] | {"present": list(range(60))}
    view = Live(console := terminal(120))
    view.start(30, 64)
    view.round(row)
    with console.capture() as capture:
        console.print(view)
    assert "not present: 60, 61, 62, 63" in capture.get()


def test_live_shows_states_and_leaders() -> None:
    rows = records("al_dsgd", "non_blocking", 0)
    lines = frame(terminal(120), 8, rounds=7)
    table = {line.split()[0]: line for line in lines if line.lstrip()[:1].isdigit()}
    assert table["2"].rstrip().endswith("✗ rejected")
    assert "✗ rank 2: not finite" in [line.rstrip() for line in lines]
    assert table["0"].rstrip().endswith("● present")
    assert table["7"].split()[2] == "1/8"
    best, degree = followers(rows[6])
    for rank in range(8):
        assert (f"★{best[rank]}" in table[str(rank)]) == (best[rank] > 0)
        assert (f"◆{degree[rank]}" in table[str(rank)]) == (degree[rank] > 0)
    assert state(rows[3], 5) == "absent"
    assert any("○ absent" in line for line in frame(terminal(120), 8, rounds=4))


def test_live_wraps_reasons_at_words() -> None:
    why = "its reply holds an array of shape (3, 4) instead of (64, 32), so that the model cannot be taken"
    row = records("d_psgd", "full_batch", 0)[0] | {"present": [0, 1, 2, 3, 4], "rejections": dict.fromkeys("567", why)}
    view = Live(console := terminal(80))
    view.start(30, 8)
    view.round(row)
    with console.capture() as capture:
        console.print(view)
    lines = [line.rstrip() for line in capture.get().splitlines()[-2:]]
    assert " ".join(line.strip() for line in lines) == f"✗ ranks 5, 6, 7: {why}"
    assert max(map(len, lines)) <= 80


def test_live_counts_wall_time_as_the_records_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run goes on from what its first part took."""
    now = 100.0
    monkeypatch.setattr("echelon.reports.progress.live.time.monotonic", lambda: now)
    view = Live(console := terminal(80))
    view.start(30, 8)
    view.round(records("d_psgd", "full_batch", 0)[9] | {"wall_seconds": 50.0})
    now += 3
    with console.capture() as capture:
        console.print(view)
    assert "wall 53 s" in capture.get()


def test_preparations_after_the_start_do_not_count_as_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("echelon.reports.progress.live.time.monotonic", lambda: now)
    console = terminal(80)
    with progress.make("live", console) as view:
        view.start(30, 8)
        with view.stage("Partitioning"):
            now += 50
            with console.capture() as preparing:
                console.print(view)
        now += 2
        view.round(records("d_psgd", "full_batch", 0)[0])
        with console.capture() as running:
            console.print(view)
    assert "Partitioning" in preparing.get()
    assert "Round 0/30" not in preparing.get()
    assert "wall 0.2 s  left 58 s" in running.get()


def test_a_worker_that_follows_itself_has_no_follower() -> None:
    best, degree = followers({"leaders_best": [0, 0, None, 0], "leaders_degree": None})
    assert best == {0: 2}
    assert not degree


def test_live_ends_with_the_summary_below_the_last_round() -> None:
    console = terminal(80, 40)
    rows = records("d_psgd", "full_batch", 0, rounds=5)
    with progress.make("live", console) as view:
        with view.stage("Starting Ray"):
            pass
        view.start(5, 8)
        for row in rows:
            view.round(row)
        view.finish(summary_of(rows))
    out = printed(console)
    assert out.index("✓ Starting Ray") < out.index("Round 5/5") < out.index("Consensus accuracy")
