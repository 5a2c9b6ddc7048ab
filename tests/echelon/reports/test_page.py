import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from echelon.reports.__main__ import compare_runs
from echelon.reports.run_folder import RunFolder
from tests.echelon.reports.conftest import resize
from tests.echelon.reports.synthetic import write_run
from tests.processes import wait_for


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for number, (strategy, work, seed) in enumerate(
        [
            ("d_psgd", "full_batch", 0),
            ("d_psgd", "full_batch", 1),
            ("al_dsgd", "non_blocking", 0),
            ("al_dsgd", "non_blocking", 1),
            ("matcha", "non_blocking", 0),
        ]
    ):
        write_run(folder / "sweep" / str(number), strategy, work, seed, rounds=6, finished=number != 4)
    compare_runs([folder / "sweep"], folder / "out")
    return folder / "out" / "index.html"


def test_the_page_needs_nothing_but_itself(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "://" not in re.sub(r'src="data:[^"]*"', "", text)
    assert text.count('src="data:image/svg+xml;base64,') == 2
    assert "<!-- " not in text


def test_the_page_shows_rows_differences_and_states(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count('<th scope="row" data-value=') == 3
    assert "<code>strategy.name</code></th><td>d_psgd</td><td>al_dsgd</td><td>matcha</td>" in text
    assert text.count("<td>finished</td>") == 4
    assert text.count("<td>unfinished</td>") == 1


def test_the_page_names_what_the_runs_have_in_common(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<p>task <strong>digits</strong>, workers <strong>8</strong>, rounds <strong>6</strong></p>" in text
    assert '<tr><th scope="row"><code>learning_rate</code></th><td>0.1</td></tr>' in text
    common, differences = text.split('<table class="keys">')[1].split('<table id="differences">')
    assert "strategy.name" not in common
    assert "strategy.name" in differences


def test_configuration_values_cannot_inject_markup(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    for name in ("a", "b"):
        folder = make_run(tmp_path / name, rounds=1).path
        config = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(config + f"note: '<script>alert(\"{name}\")</script>'\n")
    compare_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert "<script>alert" not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.browser
class TestInBrowser:
    @pytest.fixture(autouse=True)
    def _open(self, browser: Chrome, page: Path) -> None:
        browser.get(page.as_uri())

    def test_a_click_sorts_and_a_second_one_reverses(self, browser: Chrome) -> None:
        button = head(browser, "Training loss")
        assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "none"
        button.click()
        losses = column(browser, 9)
        assert losses == sorted(losses)
        assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
        button.click()
        assert column(browser, 9) == losses[::-1]
        assert browser.find_element(By.ID, "sorted").text == "Sorted by Training loss, descending."

    def test_the_keyboard_sorts(self, browser: Chrome) -> None:
        keys = browser.find_element(By.TAG_NAME, "body")
        keys.send_keys(4 * Keys.TAB)  # all keys, two scrolling regions, then the first button
        assert browser.switch_to.active_element.text == "Configuration"
        browser.switch_to.active_element.send_keys(Keys.ENTER)
        labels = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#results tbody th")]
        assert labels == sorted(labels)
        assert len(labels) == 3
        browser.switch_to.active_element.send_keys(Keys.SPACE)
        again = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#results tbody th")]
        assert again == labels[::-1]

    def test_sorting_another_column_clears_the_first_mark(self, browser: Chrome) -> None:
        head(browser, "Runs").click()
        head(browser, "Idle (%)").click()
        marks = [
            cell.get_attribute("aria-sort") for cell in browser.find_elements(By.CSS_SELECTOR, "#results thead th")
        ]
        assert marks.count("ascending") == 1
        assert marks.count("none") == len(marks) - 1

    @pytest.mark.parametrize("width", [400, 1280])
    def test_the_page_fits_its_window_and_shows_its_figures(self, browser: Chrome, width: int) -> None:
        resize(browser, width)
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        loaded = "return Array.from(document.images).every((image) => image.complete && image.naturalWidth > 100)"
        deadline = time.monotonic() + 10
        while not browser.execute_script(loaded) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert browser.execute_script(loaded)

    def test_a_chart_is_read_enlarged_and_restored(self, browser: Chrome) -> None:
        resize(browser, 1280)
        chart = browser.find_element(By.CSS_SELECTOR, ".chart")
        note = browser.find_element(By.CSS_SELECTOR, ".charts output")
        wait_for(lambda: chart.find_elements(By.TAG_NAME, "polyline"), 10)
        whole = ticks(chart)
        pointer = ActionChains(browser)
        pointer.move_to_element_with_offset(chart, -100, 0).perform()
        said = note.text.splitlines()
        assert re.fullmatch(r"Virtual time \(s\) [\d.]+", said[0])
        assert re.fullmatch(r"d_psgd, full_batch: [\d.]+ \([\d.]+ to [\d.]+\)", said[1])
        pointer.click_and_hold().move_by_offset(150, 0).release().perform()
        assert ticks(chart) != whole
        assert all(float(whole[0]) <= float(tick) <= float(whole[-1]) for tick in ticks(chart))
        assert len({tuple(ticks(each)) for each in browser.find_elements(By.CSS_SELECTOR, ".chart")}) == 2
        chart.send_keys(Keys.ESCAPE)
        assert ticks(chart) == whole
        chart.send_keys("+", Keys.ARROW_RIGHT)
        assert ticks(chart) != whole
        browser.find_element(By.CSS_SELECTOR, ".reset").click()
        assert ticks(chart) == whole

    def test_the_legend_hides_lines(self, browser: Chrome) -> None:
        wait_for(lambda: len(browser.find_elements(By.CSS_SELECTOR, "polyline")) == 4 * 3, 10)
        button = browser.find_element(By.CSS_SELECTOR, "#legend button")
        button.click()
        assert len(browser.find_elements(By.CSS_SELECTOR, "polyline")) == 4 * 2
        assert button.get_attribute("aria-pressed") == "false"

    def test_the_console_is_silent(self, browser: Chrome) -> None:
        for button in browser.find_elements(By.CSS_SELECTOR, "#results button"):
            button.click()
        assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def ticks(chart: WebElement) -> list[str]:
    """Return the labels of the x axis of a chart, without its name."""
    return [text.text for text in chart.find_elements(By.CSS_SELECTOR, "text[text-anchor=middle]")][:-1]


def head(browser: Chrome, name: str):  # type: ignore[no-untyped-def]
    return browser.find_element(By.XPATH, f"//table[@id='results']//button[text()='{name}']")


def column(browser: Chrome, number: int) -> list[float]:
    cells = browser.find_elements(By.CSS_SELECTOR, f"#results tbody td:nth-child({number + 1})")
    return [float(cell.get_attribute("data-value") or "nan") for cell in cells]
