"""Keys, and what the processes of a deployment write, are readable only by their owner."""

import sys
from pathlib import Path

import pytest

from echelon.deployment.credentials import make_certificates, make_node_key
from echelon.deployment.loopback import Loopback


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_keys(tmp_path: Path) -> None:
    (tmp_path / "node").touch(mode=0o644)
    make_node_key(tmp_path / "node")
    certificates = make_certificates(tmp_path, ["localhost"])
    assert (_mode(tmp_path / "node"), _mode(certificates.server_key)) == (0o600, 0o600)


def test_what_a_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "writer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\ntouch state.db; mkdir folder\n")
    program.chmod(0o755)
    program.with_name("python").symlink_to(sys.executable)  # what the deployment needs beside the program
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    deployment = Loopback(tmp_path / "deployment")
    try:
        deployment._start("writer", "writer").wait(20)
    finally:
        deployment.stop()
    modes = {name: _mode(deployment.folder / name) for name in ("", "state.db", "folder", "server.key")}
    assert modes == {"": 0o700, "state.db": 0o600, "folder": 0o700, "server.key": 0o600}
