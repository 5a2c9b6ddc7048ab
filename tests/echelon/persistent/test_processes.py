import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from echelon.persistent import processes
from echelon.persistent.processes import birth, end, private_folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"echelon-{os.getuid()}"


class TestBirth:
    def test_tells_processes_apart(self) -> None:
        with subprocess.Popen(["sleep", "60"]) as process:
            born = birth(process.pid)
            assert born is not None
            assert born == birth(process.pid) != birth(os.getpid())
            process.kill()
        assert birth(process.pid) is None

    def test_a_zombie_process_counts_as_exited(self) -> None:
        with subprocess.Popen(["true"]) as process:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert birth(process.pid) is None

    @pytest.mark.skipif(shutil.which("ps") is None, reason="ps is not available")
    def test_without_proc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "_PROC", Path("/nowhere/self/stat"))
        born = birth(os.getpid())
        assert born is not None
        assert born.startswith(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"))


def test_end_spares_a_process_that_has_the_same_pid_by_now() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        born = birth(process.pid)
        assert born is not None
        end(process.pid, "another time")
        assert process.poll() is None
        end(process.pid, born)
        assert process.wait(10) == -9
    end(process.pid, born)


class TestPrivateFolder:
    def test_is_private_and_that_of_the_process(self, base: Path) -> None:
        folder = private_folder(os.getpid())
        assert folder == private_folder(os.getpid())
        assert [oct(path.stat().st_mode & 0o777) for path in (base, folder)] == ["0o700", "0o700"]

    def test_folders_of_dead_processes_are_swept(self, base: Path) -> None:
        mine = private_folder(os.getpid())
        with subprocess.Popen(["sleep", "60"]) as process:
            other = private_folder(process.pid)
            private_folder(os.getpid())
            assert other.exists()
            process.kill()
        (base / "1-99999999999").mkdir()
        private_folder(os.getpid())
        assert list(base.iterdir()) == [mine]

    def test_an_open_folder_is_refused(self, base: Path) -> None:
        base.mkdir()
        base.chmod(0o755)
        with pytest.raises(PermissionError, match="must be a folder that only this user can access"):
            private_folder(os.getpid())

    def test_a_link_is_refused(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir(mode=0o700)
        base.symlink_to(tmp_path / "mine")
        with pytest.raises(PermissionError, match="must be a folder"):
            private_folder(os.getpid())
