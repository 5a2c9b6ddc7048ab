from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from echelon.reports.run_folder import RunFolder
from tests.echelon.reports.synthetic import write_run

CHROMEDRIVER = Path("/usr/bin/chromedriver")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished AL-DSGD run of 8 workers; do not write into it."""
    return write_run(tmp_path_factory.mktemp("session") / "run")


@pytest.fixture
def make_run() -> Callable[..., RunFolder]:
    """The generator itself, for other shapes of runs."""
    return write_run


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if not CHROMEDRIVER.exists():
        pytest.skip("needs chromium and chromium-driver")
    options = ChromeOptions()
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(CHROMEDRIVER)))
    yield driver
    driver.quit()


def resize(browser: Chrome, width: int) -> None:
    """Show pages in a window of this width; windows of a desktop cannot be narrower than 500 px."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
