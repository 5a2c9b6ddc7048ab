"""A process that is told to stop says so at once and ends with its children, whatever its main thread does."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.processes import Family, wait_for

PROGRAM = """
import os, signal, subprocess, sys, time
from threading import Event
from echelon.persistent import signals

signals.install()
signals.GRACE_SECONDS = 1.0
subprocess.Popen(["sleep", "600"])
stop = Event()


def ready():
    print("ready", flush=True)


def at_once():
    ready()
    time.sleep(600)


def orderly():
    with signals.graceful(stop, lambda: "last words"):
        ready()
        stop.wait()
        print("saved", flush=True)
    signals.leave(signals.status())


def deaf():
    with signals.graceful(stop, lambda: "last words"):
        ready()
        while True:
            pass


def patient():
    signals.GRACE_SECONDS = 600.0
    deaf()


def interruptible():
    try:
        with signals.graceful(stop, lambda: "last words"), signals.interruptible():
            ready()
            time.sleep(600)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    try:
        with signals.interruptible():
            print("not reached")
    except KeyboardInterrupt:
        signals.leave(signals.status())


def watched_late():
    receive = signals._receive
    signals._receive = lambda number: (time.sleep(0.5), receive(number))
    try:
        with signals.graceful(stop, lambda: "last words"), signals.interruptible():
            ready()
            time.sleep(600)
    except KeyboardInterrupt:
        time.sleep(0.8)
        print("saved", flush=True)
    signals.leave(signals.status())


def replaced():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    signals.reinstall()
    at_once()


def alarmed():
    signals.GRACE_SECONDS = 600.0
    signal.alarm(600)
    with signals.graceful(stop, lambda: "last words"):
        ready()
        stop.wait()
        time.sleep(0.5)
        print("seconds left:", signal.alarm(0), flush=True)
    signals.leave(signals.status())


def forked():
    child = os.fork()
    if child == 0:
        time.sleep(600)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    time.sleep(0.5)
    assert signals.status() is None
    at_once()


def grouped():
    ready()
    with signals.own_groups():
        own = os.fork()
        if own == 0:
            time.sleep(600)
    shared = os.fork()
    if shared == 0:
        time.sleep(600)
    time.sleep(0.5)
    print(os.getpgid(own) == own, os.getpgid(shared) == os.getpgid(0), flush=True)
    time.sleep(600)


globals()[sys.argv[1]]()
"""


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.end()


def started(family: Family, case: str) -> "subprocess.Popen[str]":
    process = family.start(sys.executable, "-c", PROGRAM, case)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("case", "said", "complained"),
    [
        ("at_once", "", "stopping ...\n"),
        ("orderly", "saved\n", "stopping ...\n"),
        ("deaf", "", "stopping ...\nlast words\n"),
        ("interruptible", "interrupted\n", "stopping ...\n"),
        ("watched_late", "saved\n", "stopping ...\n"),
        ("replaced", "", "stopping ...\n"),
        ("forked", "", "stopping ...\n"),
    ],
)
def test_it_ends_with_its_children(
    case: str, said: str, complained: str, number: signal.Signals, family: Family
) -> None:
    process = started(family, case)
    process.send_signal(number)
    assert process.communicate(timeout=60) == (said, complained)
    assert process.returncode == 128 + number
    wait_for(lambda: not family.alive(), 10)


def test_a_second_signal_ends_it_now(family: Family) -> None:
    process = started(family, "patient")
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)  # a shell may send both
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "stopping ...\nlast words\n")
    assert process.returncode == 130


def test_forks_in_groups_of_their_own(family: Family) -> None:
    process = started(family, "grouped")
    assert process.stdout is not None
    assert process.stdout.readline() == "True True\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == ("", "stopping ...\n")
    assert process.returncode == 143
    wait_for(lambda: not family.alive(), 10)


def test_an_alarm_is_cancelled(family: Family) -> None:
    """Ray's core sets one in its own handler, before it calls ours; it would abort the process."""
    process = started(family, "alarmed")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == ("seconds left: 0\n", "stopping ...\n")
    assert process.returncode == 143
