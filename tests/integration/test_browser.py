"""Reports in a real browser, cut off from the network: charts are there, nothing complains, nothing is asked for.

`make test-browser` installs what this needs (Debian's chromium and its driver); elsewhere it is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import netadapt_onnx
from hostile_names import NAMES, hostile_model
from netadapt_onnx.graph.model import save
from report_runs import EVIL, finished, scaled

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no chromium and chromedriver: make test-browser"),
]
# Where screenshots go, to be looked at.
PICTURES = os.environ.get("NETADAPT_SCREENSHOTS")
WIDTHS = (1280, 768, 390)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    assert CHROMIUM is not None
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
        )
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("evil"), EVIL)


def opened(driver: Any, file: Path, width: int = 1280) -> list[str]:
    """Open a page at a width (of the view, in CSS pixels); returns the addresses that were asked for."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get_log("performance")
    driver.get_log("browser")
    driver.get(file.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def picture(driver: Any, name: str) -> None:
    if PICTURES:
        import base64

        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        Path(PICTURES, f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def shown(driver: Any, selector: str) -> bool:
    """Whether the first element of a kind takes any room."""
    return bool(driver.execute_script(f"return document.querySelector('{selector}').getBoundingClientRect().width"))


def assert_cut_only_where_it_is_seen(driver: Any) -> None:
    """Whatever is wider than the page scrolls, with a shadow at the edge that cuts it."""
    silent = driver.execute_script(
        "return [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().width)"
        ".filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible')"
        ".filter(e => !getComputedStyle(e).backgroundAttachment.includes('local')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert silent == []


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scaled(tmp_path_factory.mktemp("sizes"))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_of_scale_is_whole_and_quiet(browser: Any, sizes: Path, width: int) -> None:
    page = sizes / "report.html"
    assert opened(browser, page, width) == [page.as_uri()]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.querySelectorAll('figure > svg').length") >= 2
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    picture(browser, f"scale-{width}")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_is_whole_and_quiet(browser: Any, run: Path, width: int) -> None:
    page = netadapt_onnx.report(run).report
    assert opened(browser, page, width) == [page.as_uri()]
    assert browser.get_log("browser") == []
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('figure > svg')].filter(s => s.getBoundingClientRect().width)"
        ".map(s => [s.getBoundingClientRect().width, s.querySelectorAll('path, text').length])"
    )
    assert sizes and all(wide > 300 and marks > 5 for wide, marks in sizes), sizes
    assert sizes[0][0] > 0.85 * width, "the first chart fills the page"
    assert shown(browser, "figure.broad") == (width > 640) and shown(browser, "figure.narrow") == (width <= 640)
    assert browser.execute_script("return document.images.length") == 0, "a name became an element"
    assert_cut_only_where_it_is_seen(browser)
    # Tables scroll within themselves, the page does not.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    data = browser.execute_script("return JSON.parse(document.getElementById('data').textContent)")
    assert EVIL in data["runs"][0]["result"]["groups"]
    picture(browser, f"report-{width}")


def test_dark_and_light_differ(browser: Any, run: Path) -> None:
    page = netadapt_onnx.report(run).report
    colours = []
    for scheme in ("light", "dark"):
        feature = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
        opened(browser, page)
        colours.append(
            browser.execute_script(
                "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]",
            )
        )
        picture(browser, f"report-{scheme}")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert colours[0] == colours[1][::-1] or set(colours[0]).isdisjoint(colours[1])


def test_an_interactive_report_answers_to_the_mouse(browser: Any, run: Path, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    plain, interactive = netadapt_onnx.report(run), netadapt_onnx.report(run, tmp_path / "live.html", interactive=True)
    assert plain.size_bytes < interactive.size_bytes < plain.size_bytes + 1.5e6
    assert opened(browser, interactive.report) == [interactive.report.as_uri()]
    count = len(browser.find_elements(By.TAG_NAME, "figure"))
    WebDriverWait(browser, 30).until(lambda d: len(d.find_elements(By.CSS_SELECTOR, "figure .vega-embed")) == count)
    assert browser.get_log("browser") == []
    point = browser.find_element(By.CSS_SELECTOR, "figure .mark-symbol.role-mark path")
    ActionChains(browser).scroll_to_element(point).move_to_element(point).perform()
    WebDriverWait(browser, 10).until(lambda d: "score" in d.find_element(By.ID, "vg-tooltip-element").text)
    picture(browser, "live")
    assert browser.execute_script("return document.images.length") == 0


def test_the_page_of_a_run_that_is_on_loads_itself_again(browser: Any, run: Path, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    from netadapt_onnx.api.report import write_report
    from netadapt_onnx.reporting import page as pages

    copy = shutil.copytree(run, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "RELOAD_S", 1)
        write_report(copy, live=True)
    assert opened(browser, copy / "report.html") == [(copy / "report.html").as_uri()]
    assert "MACs" in browser.find_element("css selector", "p.headline").text
    (copy / "result.json").unlink()
    write_report(copy)
    WebDriverWait(browser, 20).until(lambda d: "Interrupted" in d.find_element("css selector", "p.headline").text)


def test_a_comparison_is_quiet_too(browser: Any, run: Path, tmp_path: Path) -> None:
    comparison = netadapt_onnx.report([run, run], tmp_path / "both.html")
    assert opened(browser, comparison.report) == [comparison.report.as_uri()]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_network_is_drawn_by_the_page_alone(browser: Any, tmp_path: Path, width: int) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    page = tmp_path / "network.html"
    netadapt_onnx.inspect(save(hostile_model(), tmp_path / "model.onnx"), graph=page)
    assert opened(browser, page, width) == [page.as_uri()]
    WebDriverWait(browser, 30).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#network svg .node"))
    assert browser.get_log("browser") == []
    assert len(browser.find_elements(By.CSS_SELECTOR, "#network svg .node")) == len(NAMES) + 2  # an input, an output
    assert browser.execute_script("return document.images.length") == 0, "a name became an element"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    picture(browser, f"network-{width}")
