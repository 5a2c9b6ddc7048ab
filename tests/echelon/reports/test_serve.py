"""The live page: what is answered to whom, what it shows, and how it changes in a browser."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from echelon.reports.__main__ import main
from echelon.reports.run_folder import RunFolder
from echelon.reports.serve import make_server
from tests.echelon.reports.conftest import resize
from tests.echelon.reports.synthetic import records, summary_of, write_run
from tests.processes import wait_for


@contextmanager
def _served(path: Path) -> Iterator[int]:
    """Serve a path; yield the port."""
    with make_server(path, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("served") / "run"
    write_run(folder, rounds=7, finished=False)
    with _served(folder) as number:
        yield number


def _ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def _parts(port: int) -> dict[str, str]:
    parts: dict[str, str] = json.loads(_ask(port, "/state")[1])
    return parts


class TestRequests:
    def test_page_state_and_figures(self, port: int) -> None:
        answer, page = _ask(port, "/")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert b"connect-src 'self'" in page
        assert b"<!-- " not in page
        answer, image = _ask(port, "/figures/consensus.svg?7-1")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/svg+xml; charset=utf-8")
        assert b"<svg" in image
        assert _ask(port, "/state")[0].headers["X-Content-Type-Options"] == "nosniff"

    def test_a_head_request_has_no_content(self, port: int) -> None:
        answer, content = _ask(port, "/", "HEAD")
        assert (answer.status, content) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 1000

    @pytest.mark.parametrize("host", ["example.org", "example.org:{}", "127.0.0.1", "127.0.0.1:1", "localhost:{}."])
    def test_other_names_get_nothing(self, port: int, host: str) -> None:
        answer, content = _ask(port, "/", host=host.format(port))
        assert (answer.status, content) == (403, b"wrong host\n")

    def test_localhost_is_this_machine(self, port: int) -> None:
        assert _ask(port, "/", host=f"localhost:{port}")[0].status == 200

    @pytest.mark.parametrize(
        "path",
        [
            *("/config.yaml", "/../run/config.yaml", "/figures/", "/figures/../config.yaml", "/figures/x.svg"),
            *("/%2e%2e/config.yaml", "/figures/..%2f..%2fconfig.yaml", "/etc/passwd", "/state/"),
            "/figures/timeline.png",
        ],
    )
    def test_there_are_no_other_paths(self, port: int, path: str) -> None:
        assert _ask(port, path)[0].status == 404

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
    def test_nothing_can_be_changed(self, port: int, method: str) -> None:
        assert _ask(port, "/", method)[0].status == 501


class TestParts:
    def test_workers_and_rounds(self, port: int) -> None:
        parts = _parts(port)
        assert parts["state"].startswith("<strong>Running</strong>: 7 of 7 rounds; the last one ended ")
        assert parts["rounds"].count("<tr>") == 8
        row = parts["workers"].split('<th scope="row">')[8]
        last = records("al_dsgd", "non_blocking", 0, rounds=7)
        done = [record["minibatches"][7] for record in last]
        assert f"<td>{done[-1]} of 8</td>" in row
        assert f"<td>{sum(count or 0 for count in done)}</td>" in row
        assert "✗ rejected: not finite" in parts["workers"].split('<th scope="row">')[3]
        assert parts["choices"].startswith("strategy <strong>al_dsgd</strong>, work <strong>non_blocking</strong>")

    def test_the_newest_run_of_a_folder(self, tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
        with _served(tmp_path) as port:
            assert _parts(port)["state"] == f"{tmp_path}: no run there yet"
            for name in ("old", "new"):
                folder = make_run(tmp_path / "day" / name, rounds=1).path
                os.utime(folder / "metrics.jsonl", (1e9 + (name == "new"),) * 2)
            parts = _parts(port)
            assert parts["title"] == f"{tmp_path}/day/new"
            assert parts["state"] == "<strong>Finished</strong> after 1 of 1 rounds"

    def test_a_run_without_a_round_and_a_damaged_one(self, tmp_path: Path) -> None:
        folder = RunFolder.create(tmp_path / "run", "rounds: 9\nworkers: 2\n")
        folder.close()
        with _served(folder.path) as port:
            assert _parts(port)["state"].startswith("<strong>Preparing</strong>")
            assert _parts(port)["figures"] == ""
            assert _ask(port, "/figures/timeline.svg")[0].status == 404
            (folder.path / "metrics.jsonl").write_text("<b>\n")
            assert "metrics.jsonl line 1 is broken" in _parts(port)["state"]
            shutil.rmtree(folder.path)
            assert "no such folder" in _parts(port)["state"]

    def test_values_cannot_inject_markup(self, tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
        folder = make_run(tmp_path / "run", rounds=1).path
        record = json.loads((folder / "metrics.jsonl").read_text())
        record |= {"present": [0, 1], "rejections": {"2": "<img src=x onerror=alert(1)>"}}
        (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        with (folder / "config.yaml").open("a") as file:
            file.write("note: '<script>alert(1)</script>'\n'<i>': 1\n")
        with _served(folder) as port:
            page = _ask(port, "/")[1].decode()
        assert "<script>alert" not in page
        assert "<i>" not in page
        assert "<img src=x" not in page
        assert "rejected: &lt;img src=x" in page

    def test_figures_change_with_the_rounds_but_not_at_every_one(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", rounds=2, finished=False)
        rows = records("al_dsgd", "non_blocking", 0, rounds=5)
        with _served(run.path) as port:
            first = _parts(port)["figures"]
            run.append_metrics(rows[2])
            assert _parts(port)["figures"] == first
            assert "3 of 2 rounds" in _parts(port)["state"]
            run.write_summary(summary_of(rows))
            assert _parts(port)["figures"] != first, "those of the finished run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FOLDER/none"], "FOLDER/none: no such folder"),
        (["FOLDER", "--host", "0.0.0.0"], "--host must be the address by which the page is opened"),
        (["FOLDER", "--port", "65536"], "argument --port: must be an integer in 0..65535; got 65536"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [argument.replace("FOLDER", str(tmp_path)) for argument in arguments]
    try:
        status = main(["serve", *given], "report")
    except SystemExit as ended:
        status = int(str(ended.code))
    said = capsys.readouterr().err
    assert status == 2
    assert message.replace("FOLDER", str(tmp_path)) in said
    assert said.count("\n") == 1


@pytest.mark.browser
class TestInBrowser:
    def test_a_new_round_appears_by_itself(self, browser: Chrome, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", rounds=2, finished=False)
        rows = records("al_dsgd", "non_blocking", 0, rounds=3)
        with _served(run.path) as port:
            browser.get(f"http://127.0.0.1:{port}/")
            loaded = "return Array.from(document.images).filter((image) => image.naturalWidth > 100).length"
            wait_for(lambda: browser.execute_script(loaded) == 6, 30)
            assert _first(browser, "rounds") == "2"
            browser.find_element(By.CSS_SELECTOR, "summary").click()
            run.append_metrics(rows[2])
            wait_for(lambda: _first(browser, "rounds") == "3", 20)
            assert browser.find_element(By.CSS_SELECTOR, "details").get_attribute("open"), "what was opened stays open"
            for width in (400, 1280):
                resize(browser, width)
                assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
            assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
        state = browser.find_element(By.ID, "state")
        wait_for(lambda: state.text.startswith("The server of this page has ended"), 20)
        browser.get("about:blank")  # ends its requests, which were refused: the log is of no use to other tests
        browser.get_log("browser")  # type: ignore[no-untyped-call]


def _first(browser: Chrome, table: str) -> str:
    # In one step: the page may replace its tables at any time.
    text: str = browser.execute_script(f"return document.querySelector('#{table} tbody th').innerText")
    return text
