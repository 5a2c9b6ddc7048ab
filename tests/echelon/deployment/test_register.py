"""Registration of a folder of keys."""

import re
import sys
from pathlib import Path

import pytest

from echelon.deployment import register
from echelon.deployment.credentials import make_node_key
from echelon.deployment.loopback import CONNECTION, Loopback
from echelon.deployment.register import main, public_keys


@pytest.mark.deployment
def test_a_folder_is_registered_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in ("node-10", "node-9"):
        make_node_key(keys / name)
    with Loopback(tmp_path / "deployment") as deployment:
        for name, value in deployment._variables("cli").items():
            monkeypatch.setenv(name, value)
        assert main([str(keys), CONNECTION]) == 0
        first = capsys.readouterr().out
        assert main([str(keys), CONNECTION]) == 0
        assert capsys.readouterr().out == first
        (keys / "node-9.id").unlink()
        assert main([str(keys), CONNECTION]) == 2
    found = re.fullmatch(r"node-9\.pub: node (\d+)\nnode-10\.pub: node (\d+)\nnodes=\[(\d+),(\d+)\]\n", first)
    assert found is not None
    assert found.group(1, 2) == found.group(3, 4)
    assert found.group(1) != found.group(2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "node-9.pub was registered elsewhere" in said


def test_keys_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["node-0.pub", "node-2.pub", "node-10.pub"]
    for name in (*names, "node-1.id", "node-1"):
        (tmp_path / name).touch()
    assert [key.name for key in public_keys(tmp_path)] == names


def test_a_folder_without_keys_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "lab"], prog="register") == 2
    assert capsys.readouterr().err == f"register: {tmp_path}: no public key *.pub there\n"


@pytest.fixture
def flwr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make room for a command in place of Flower's, and one key."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    (tmp_path / "node-0.pub").write_text("no key")
    return tmp_path / "bin" / "flwr"


def test_a_superlink_that_is_starting_is_asked_again(
    flwr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(register, "_PAUSE_SECONDS", 0.01)
    asked = tmp_path / "asked"
    unavailable = "echo 'Connection to the SuperLink is unavailable. Please check' >&2; exit 1"
    answer = f"echo >> {asked}; [ $(wc -l < {asked}) -ge 3 ] || {{ {unavailable}; }}"
    flwr.write_text(f'#!/bin/sh\n{answer}\necho \'{{"node-id": "7"}}\'\n')
    flwr.chmod(0o755)
    assert main([str(tmp_path), "lab"]) == 0
    assert capsys.readouterr().out == "node-0.pub: node 7\nnodes=[7]\n"
    asked.unlink()
    monkeypatch.setattr(register, "_SUPERLINK_SECONDS", 0.0)
    assert main([str(tmp_path), "lab"]) == 2
    assert "node-0.pub cannot be registered: Connection to the SuperLink is unavailable" in capsys.readouterr().err


def test_flowers_refusal_is_one_line(flwr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of an unreadable key, one that fails, and one that prints no JSON."""
    outputs = ('echo \'{"success": false, "error-message": "not  an EC key"}\'', "echo Traceback >&2; exit 1", "exit 3")
    for output, said in zip(outputs, ("not an EC key", "Traceback", "flwr ended with status 3"), strict=True):
        flwr.write_text(f"#!/bin/sh\n{output}\n")
        flwr.chmod(0o755)
        assert main([str(tmp_path), "lab"]) == 2
        assert capsys.readouterr().err.endswith(f"node-0.pub cannot be registered: {said}\n")
