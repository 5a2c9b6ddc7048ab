"""A live page of a run, served to this machine only: `echelon report serve RUN`."""

import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from echelon.core.printable import printable
from echelon.reports import figures, live_page
from echelon.reports.run_folder import RunFolder, RunFolderError

HOST = "127.0.0.1"
PORT = 8000
_LOCAL = ("127.0.0.1", "localhost")
_ANY = ("", "0.0.0.0", "::")
# Drawing all figures takes three CPU seconds: a browser loads them again at most so often.
_FIGURE_SECONDS = 30.0
_REQUEST_SECONDS = 10.0

_Answer = tuple[HTTPStatus, str, bytes]


class Source:
    """What is served of a run: its newest state, read again when its files have changed.

    Parameters
    ----------
    path : Path
        A run folder, or a folder that holds run folders at any depth: the newest of them is shown.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = threading.Lock()
        self._drawing = threading.Lock()  # apart: drawing takes seconds, and the page goes on
        self._stamp: object = None
        self._run: RunFolder | None = None
        self._drawn = ""
        self._drawn_at = 0.0
        self._images: dict[tuple[str, str], bytes] = {}

    def parts(self) -> dict[str, str]:
        """Return the parts of the page, or of one that says why there is no run to be shown."""
        with self._reading:
            try:
                run = self._newest()
            except (RunFolderError, OSError) as error:
                return live_page.message(str(error))
            return live_page.parts(run, self._token(run))

    def image(self, name: str) -> bytes | None:
        """Return a figure as SVG; None if there is none of this name, or not yet."""
        with self._reading:
            run, drawn = self._run, self._drawn
        if run is None or name not in figures.names(run):
            return None
        with self._drawing:
            self._images = {key: image for key, image in self._images.items() if key[0] == drawn}
            if (drawn, name) not in self._images:
                buffer = io.BytesIO()
                figures.draw_one(run, name).savefig(buffer, format="svg", metadata={"Date": None})
                self._images[drawn, name] = buffer.getvalue()
            return self._images[drawn, name]

    def _newest(self) -> RunFolder:
        """Return the run, opened again if it has changed.

        Raises
        ------
        RunFolderError
            If there is none, or it cannot be read.
        """
        path = self._folder()
        watched = [path / name for name in ("metrics.jsonl", "config.yaml", "summary.json", "partition.json")]
        stamp = (path, [(file.stat().st_mtime_ns, file.stat().st_size) for file in watched if file.exists()])
        if self._run is None or stamp != self._stamp:
            self._run, self._stamp = RunFolder.open(path), stamp
        return self._run

    def _folder(self) -> Path:
        if (self._path / "metrics.jsonl").exists() or not self._path.is_dir():
            return self._path
        found = [file.parent for file in self._path.rglob("metrics.jsonl")]
        if not found:
            raise RunFolderError(f"{self._path}: no run there yet")
        return max(found, key=lambda folder: (folder / "metrics.jsonl").stat().st_mtime_ns)

    def _token(self, run: RunFolder) -> str:
        """Return a text that changes when figures are to be loaded again; empty before there are any."""
        if not run.metrics and run.partition is None:
            return ""
        current = f"{run.path}-{len(run.metrics)}-{run.finished}"
        now = time.monotonic()
        if current != self._drawn and (run.finished or now - self._drawn_at >= _FIGURE_SECONDS or not self._drawn):
            self._drawn, self._drawn_at = current, now
        return str(int(1000 * self._drawn_at))


def make_server(path: Path, host: str = HOST, port: int = PORT) -> ThreadingHTTPServer:
    """Return a server of the live page, which answers until it is closed.

    Only requests that name the address itself are answered: a web page of somebody else, whose name resolves to this
    machine, gets nothing. No path of a request reaches the file system.

    Parameters
    ----------
    path : Path
        A run folder, or a folder of run folders.
    host : str
        Address to listen at; by default only this machine reaches it. What is served has no password.
    port : int
        Port; 0 takes a free one.

    Raises
    ------
    OSError
        If the address cannot be used.
    """
    source = Source(path)
    hosts: set[str] = set()
    routes: dict[str, Callable[[], _Answer | None]] = {
        "/": lambda: _html(live_page.render(printable(str(path)), source.parts())),
        "/state": lambda: _json(source.parts()),
        **{f"/figures/{name}.svg": _image(source, name) for name in figures.CAPTIONS},
    }
    server = ThreadingHTTPServer((host, port), partial(_Handler, routes, hosts))
    server.daemon_threads = True
    hosts |= {f"{name}:{server.server_port}" for name in ({*_LOCAL, host} if host in _LOCAL else {host})}
    return server


def serve(path: Path, host: str, port: int) -> None:
    """Serve the live page of a run until Ctrl-C.

    Raises
    ------
    RunFolderError
        If there is no such folder.
    OSError
        If the address cannot be used.
    """
    if not path.is_dir():
        raise RunFolderError(f"{path}: no such folder")
    if host in _ANY:
        raise RunFolderError(f"--host must be the address by which the page is opened, not all of them; got {host}")
    with make_server(path, host, port) as server:
        print(f"http://{host}:{server.server_port}/ shows {printable(str(path))}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for a few fixed paths."""

    timeout = _REQUEST_SECONDS
    server_version = "Echelon"
    sys_version = ""

    def __init__(self, routes: Mapping[str, Callable[[], _Answer | None]], hosts: set[str], *request: Any) -> None:
        self._routes = routes
        self._hosts = hosts
        super().__init__(*request)  # which answers the request

    def do_GET(self) -> None:
        """Answer with the content of a known path."""
        if self.headers.get("Host") not in self._hosts:
            self._send((HTTPStatus.FORBIDDEN, "text/plain", b"wrong host\n"))
            return
        route = self._routes.get(self.path.partition("?")[0])
        answer = route() if route is not None else None
        self._send(answer or (HTTPStatus.NOT_FOUND, "text/plain", b"not found\n"))

    def do_HEAD(self) -> None:
        """Answer as to GET, without the content."""
        self.do_GET()

    def _send(self, answer: _Answer) -> None:
        status, kind, content = answer
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Log no requests: a page that refreshes itself makes one every two seconds."""


def _html(text: str) -> _Answer:
    return HTTPStatus.OK, "text/html", text.encode()


def _json(value: dict[str, str]) -> _Answer:
    return HTTPStatus.OK, "application/json", json.dumps(value).encode()


def _image(source: Source, name: str) -> Callable[[], _Answer | None]:
    def answer() -> _Answer | None:
        image = source.image(name)
        return None if image is None else (HTTPStatus.OK, "image/svg+xml", image)

    return answer
