"""Where Flower is not as expected, the node becomes Flower's own SuperNode."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supernode import start_client_internal

from echelon.__main__ import main
from echelon.deployment import flower, node

FLAGS = ["--superlink", "127.0.0.1:1", "--insecure"]


class BecameError(Exception):
    """Stands for the end of this program."""


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, list[str]]]:
    calls: list[tuple[Path, list[str]]] = []

    def execv(program: Path, arguments: list[str]) -> None:
        calls.append((program, arguments))
        raise BecameError

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr("sys.argv", ["echelon"])
    return calls


def is_stock(became: list[tuple[Path, list[str]]], flags: list[str]) -> bool:
    [(program, arguments)] = became
    found = os.environ["PATH"].split(os.pathsep)[0] == str(program.parent)
    return found and program.name == "flower-supernode" and arguments == [str(program), *flags]


def test_the_installed_flower_is_as_expected() -> None:
    assert flower.difference() is None


def other_parameters(server_address: str, insecure: bool, transport: str) -> None:
    raise AssertionError("it must not be called")


def other_connection(
    server_address: str,
    insecure: bool,
    root_certificates: Any = None,
    authentication_keys: Any = None,
    max_retries: int | None = None,
    max_wait_time: float | None = None,
) -> Iterator[tuple[int, Message, ObjectTree]]:
    raise AssertionError("it must not be called")


@pytest.mark.parametrize(
    ("fake", "reason"),
    [(other_parameters, "is (server_address, insecure, transport)"), (other_connection, "has other functions")],
)
def test_another_flower_gets_its_own_supernode(
    fake: Any,
    reason: str,
    became: list[tuple[Path, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(start_client_internal, "_init_connection", fake)
    with pytest.raises(BecameError):
        main(["node", *FLAGS])
    assert is_stock(became, FLAGS)
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("echelon node: ")
    assert reason in line
    assert line.endswith("; starting flower-supernode instead")


def test_a_flower_without_a_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(start_client_internal, "_verify_fab")
    difference = flower.difference()
    assert difference is not None
    assert difference.endswith("_verify_fab(fab, trusted_entities) is missing")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--isolation", "process"], "--isolation process"),
        (["--allow-runtime-dependency-installation"], "--allow-runtime-dependency-installation"),
    ],
)
def test_flags_that_only_flower_knows(
    flags: list[str], reason: str, became: list[tuple[Path, list[str]]], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BecameError):
        node.main([*FLAGS, *flags])
    assert is_stock(became, [*FLAGS, *flags])
    assert f"echelon node: {reason} is not supported; starting" in capfd.readouterr().err


def test_a_key_without_tls_is_refused_by_flower() -> None:
    config = SimpleNamespace(
        isolation="subprocess", runtime_dependency_install=False, insecure=True, authentication_keys=object()
    )
    assert node._unsupported(config) == "--insecure and --auth-supernode-private-key exclude each other"
