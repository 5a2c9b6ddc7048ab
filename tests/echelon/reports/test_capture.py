import contextlib
import io
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from echelon.reports import capture
from tests.repository import ROOT


def test_prints_children_and_loggers_go_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    logger = logging.getLogger("flwr")  # which has a handler of its own as well, once flwr has been imported
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("logged %(message)s"))
    logger.addHandler(handler)
    try:
        with capture.to_log(log):
            print("from python")
            os.write(2, b"from native code\n")
            subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
            logger.warning("from flwr")
        print("after")
    finally:
        logger.removeHandler(handler)
    text = log.read_text()
    for source in ("python", "native code", "a child"):
        assert text.count(f"from {source}") == 1
    assert text.count("logged from flwr") == 1
    assert "after" not in text
    assert isinstance(handler.stream, io.StringIO)


def test_the_console_still_writes_where_stdout_did(tmp_path: Path) -> None:
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout), capture.to_log(tmp_path / "run.log") as console:
        print("noise")
        console.print("shown")
    assert stdout.getvalue() == "shown\n"
    assert (tmp_path / "run.log").read_text() == "noise\n"


def test_everything_is_put_back_when_an_exception_passes(tmp_path: Path) -> None:
    logger = logging.getLogger("made.late")
    before = sys.stdout, sys.stderr, os.fstat(1), os.fstat(2)
    with pytest.raises(ZeroDivisionError):
        fail_inside(tmp_path / "run.log", logger)
    assert (sys.stdout, sys.stderr) == before[:2]
    for descriptor, stat in ((1, before[2]), (2, before[3])):
        assert os.path.samestat(os.fstat(descriptor), stat)
    (late,) = logger.handlers
    assert isinstance(late, logging.StreamHandler)
    assert late.stream is sys.stderr
    logger.removeHandler(late)


def fail_inside(log: Path, logger: logging.Logger) -> None:
    with capture.to_log(log):
        logger.addHandler(logging.StreamHandler())
        _ = 1 / 0


def test_a_whole_process_shows_only_its_own_console_and_its_traceback(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os, sys, warnings
        from echelon.reports import capture
        print("before")
        with capture.to_log(sys.argv[1]) as console:
            os.write(1, b"noise\\n")
            print("more noise", file=sys.stderr)
            warnings.warn("a warning")
            console.print("shown")
            raise ValueError("the reason")
    """)
    command = [sys.executable, "-c", program, str(tmp_path / "run.log")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == "before\nshown\n"
    assert done.stderr.endswith("ValueError: the reason\n")
    assert "noise" not in done.stderr
    log = (tmp_path / "run.log").read_text()
    assert log.startswith("noise\nmore noise\n")
    assert "UserWarning: a warning" in log


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_does_not_hide_how_the_run_ended() -> None:
    def write_and_fail() -> None:
        with contextlib.suppress(OSError):
            print("lost")
        raise KeyError("reason")

    with pytest.raises(KeyError, match="reason"), capture.to_log("/dev/full"):
        write_and_fail()
