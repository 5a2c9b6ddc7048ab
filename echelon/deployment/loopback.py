"""A SuperLink and SuperNodes on this machine, each in its own process, with TLS, registered keys and a database.

Uses Flower's commands in a separate folder, on free ports. Processes are stopped by process id;
they end with the process that holds the deployment, even if that is killed (:mod:`echelon.deployment.reaper`).
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from echelon.deployment import reaper
from echelon.deployment.credentials import make_certificates, make_node_key
from echelon.deployment.register import register

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
CONNECTION = "loopback"

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0


class Loopback:
    """A deployment on one machine.

    Parameters
    ----------
    folder : Path
        For keys, database, logs and Flower's home; created if missing. All that the processes write, also the run
        folder, is readable only by its owner.
    app : Path
        Folder of the Flower app; this repository by default.
    environment : mapping of str to str, optional
        What the processes inherit; by default the environment of this one.
    database : bool or Path
        Whether the SuperLink has a database, from which a killed one resumes; a path is its file, instead of one in
        ``folder``.
    """

    def __init__(
        self,
        folder: Path,
        app: Path = ROOT,
        environment: Mapping[str, str] = os.environ,
        *,
        database: bool | Path = True,
    ) -> None:
        self.folder = folder.resolve()
        self.database = self.folder / "state.db" if database is True else database or None
        self.app = app.resolve()
        self.logs = self.folder / "logs"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        self.port = free_port()
        self.certificates = make_certificates(self.folder, [HOST, "localhost"])
        self._environment = {
            **environment,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._reaper: subprocess.Popen[bytes] | None = None
        home = self.folder / "home-cli"
        home.mkdir(exist_ok=True)
        lines = [f"[superlink.{CONNECTION}]", f'address = "{HOST}:{self.port}"']
        (home / "config.toml").write_text(
            "\n".join([*lines, f'root-certificates = "{self.certificates.authority}"', ""])
        )

    def __enter__(self) -> Self:
        """Start the SuperLink."""
        try:
            self.start_superlink()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop all processes."""
        self.stop()

    def start_superlink(self) -> None:
        """Start the SuperLink and wait until it responds; a killed one resumes from its database."""
        files = self.certificates
        tls = ["--ssl-ca-certfile", files.authority, "--ssl-certfile", files.server, "--ssl-keyfile", files.server_key]
        database = [] if self.database is None else ["--database", self.database]
        where = ["--host", HOST, "--port", self.port, *database]
        options = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
        self._start("superlink", "flower-superlink", *tls, *where, *options)
        self._wait_for_port()

    def register(self, *names: str) -> list[int]:
        """Create a key for each SuperNode, register it with the SuperLink, and return the nodes' ids."""
        return register([make_node_key(self.folder / name) for name in names], CONNECTION, self._variables("cli"))

    def start_node(self, name: str, config: str, *, stock: bool = False) -> subprocess.Popen[bytes]:
        """Start a node with its key and ``--node-config``: Echelon's, or with ``stock`` Flower's SuperNode."""
        where = ["--superlink", f"{HOST}:{self.port}", "--host", HOST, "--port", free_port()]
        trust = ["--root-certificates", self.certificates.authority]
        key = self.folder / name
        if not key.exists():
            make_node_key(key)
        own = ["--auth-supernode-private-key", key, "--node-config", config]
        # By default Flower polls for messages once a second.
        polling = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}
        program = ["flower-supernode"] if stock else ["python", "-P", "-m", "echelon.deployment.node"]
        return self._start(name, *program, *where, *trust, *own, **polling)

    def run(self, **config: str) -> subprocess.Popen[bytes]:
        """Submit a run with ``flwr run`` and this run configuration; the process follows the run until it ends."""
        settings = " ".join(f'{name}="{value}"' for name, value in config.items())
        command = ["run", self.app, CONNECTION, "--run-config", settings, "--stream"]
        return self._start(f"run-{len(self._processes)}", "flwr", *command, log="run", home="cli")

    def log(self, name: str) -> str:
        """Return the log of a process."""
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def is_running(self, name: str) -> bool:
        """Return whether a process was started and is still running."""
        return name in self._processes and self._processes[name].poll() is None

    def pid(self, name: str) -> int:
        """Return the process id of a running process."""
        return self._processes[name].pid

    def kill(self, name: str) -> None:
        """Kill a process (SIGKILL), as a power failure would."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Stop all processes, the SuperLink last, and the remaining children of killed ones."""
        running = list(reversed(self._processes.values()))
        for process in running:
            process.terminate()
        end = time.monotonic() + _STOP_SECONDS
        for process in running:
            try:
                process.wait(max(end - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        if self._reaper is not None:
            self._reaper.communicate()
            self._reaper = None

    def _variables(self, home: str) -> dict[str, str]:
        return {**self._environment, "FLWR_HOME": str(self.folder / f"home-{home}")}

    def _start(
        self, name: str, program: str, *arguments: object, log: str = "", home: str = "", **variables: str
    ) -> subprocess.Popen[bytes]:
        environment = {**self._variables(home or name), **variables}
        command = [str(Path(sys.executable).with_name(program)), *map(str, arguments)]
        with (self.logs / f"{log or name}.log").open("ab") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                umask=0o077,  # the database holds models and tokens
                # In the child, before it becomes the program: whenever this process dies, the reaper knows its group.
                preexec_fn=partial(_report_group, self._reaper_input()),
            )
        self._processes[name] = process
        return process

    def _reaper_input(self) -> int:
        """Return the descriptor on which the reaper, which this starts, reads process groups."""
        if self._reaper is None:
            watch = [sys.executable, "-I", "-S", reaper.__file__]
            self._reaper = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)
        assert self._reaper.stdin is not None
        return self._reaper.stdin.fileno()

    def _wait_for_port(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._processes["superlink"].poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex((HOST, self.port)) == 0:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"the SuperLink did not start: {self.log('superlink')}")


def _report_group(descriptor: int) -> None:
    os.write(descriptor, f"{os.getpid()}\n".encode())


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
