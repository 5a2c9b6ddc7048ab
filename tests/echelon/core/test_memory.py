"""What is free, by the machine and by its control groups."""

from pathlib import Path

import pytest

from echelon.core import memory


def test_no_more_is_free_than_the_machine_has() -> None:
    assert 1 << 20 < memory.available() < 1 << 50


def _group(folder: Path, limit: str, usage: int, *, version: int, reclaimable: int = 0) -> None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, usage), strict=True):
        (folder / name).write_text(f"{value}\n")
    key = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 5\n{key} {reclaimable}\n")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_machine", lambda: 10_000)
    return tmp_path


@pytest.mark.parametrize("version", [1, 2])
class TestControlGroups:
    @pytest.fixture(autouse=True)
    def member(self, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
        line = "0::/jobs/one" if version == 2 else "4:cpu,memory:/jobs/one"
        monkeypatch.setattr(Path, "read_text", self._reading(line, Path.read_text))

    @staticmethod
    def _reading(line: str, real):  # type: ignore[no-untyped-def]
        return lambda path, **how: f"9:pids:/\n{line}\n" if path == Path("/proc/self/cgroup") else real(path, **how)

    def _root(self, groups: Path, version: int) -> Path:
        return groups if version == 2 else groups / "memory"

    def test_the_smallest_of_all_above_counts(self, groups: Path, version: int) -> None:
        root = self._root(groups, version)
        _group(root / "jobs" / "one", "9000", 1000, version=version, reclaimable=500)
        _group(root / "jobs", "5000", 2000, version=version)
        assert memory.available() == 3000
        _group(root / "jobs" / "one", "2000", 1000, version=version, reclaimable=500)
        assert memory.available() == 1500

    def test_one_without_a_limit_does_not_count(self, groups: Path, version: int) -> None:
        _group(self._root(groups, version), "max", 2000, version=version)
        assert memory.available() == 10_000

    def test_nothing_is_free_in_one_above_its_limit(self, groups: Path, version: int) -> None:
        _group(self._root(groups, version), "100", 2000, version=version)
        assert memory.available() == 0


def test_the_refusal_has_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 3 * 10**9)
    memory.require("workers=9", {"models": 10**9, "updates": 2 * 10**9}, "lower workers")
    message = (
        "^workers=9 needs at least 4.0 GB of memory \\(updates 2.5 GB, models 1.5 GB\\), but 3.0 GB are free: lower it$"
    )
    with pytest.raises(ValueError, match=message):
        memory.require("workers=9", {"models": 15 * 10**8, "updates": 25 * 10**8, "momentum": 0}, "lower it")
