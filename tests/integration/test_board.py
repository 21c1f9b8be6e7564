"""The comparison view of a sweep as a person sees it: a real TensorBoard server in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from rt_scale.store.board import BoardRun, BoardWriter, build_sweep_board

METRICS = ["probe/student/linear", "probe/teacher/linear"]
SERVE = """
import json, sys
from pathlib import Path
from rt_scale.store.board import BoardRun, build_sweep_board, serve
board, runs, metrics = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
runs = [BoardRun(run["label"], run["group"], Path(run["folder"]), run["values"]) for run in runs]
tell = lambda address: print(address, flush=True)
refresh = lambda: build_sweep_board(board, runs, metrics)
serve(board, tell, port=0, host="127.0.0.1", refresh=refresh, interval=1.0)
"""
# Shadow roots hide TensorBoard's older views from body.innerText; its newer ones split a tag in two nodes.
ALL_TEXT = """
const texts = [];
const visit = node => {
    if (node.nodeType === Node.TEXT_NODE) texts.push(node.textContent);
    if (node.shadowRoot) visit(node.shadowRoot);
    if (!['SCRIPT', 'STYLE'].includes(node.nodeName)) node.childNodes.forEach(visit);
};
visit(document.body);
return texts.join('');
"""


def write_sweep(root: Path) -> tuple[Path, list[BoardRun]]:
    """Two values of alpha with two seeds each, the last run unfinished; one more run not begun."""
    runs = []
    for number, (alpha, seed) in enumerate([(0.25, 0), (0.25, 1), (1.0, 0), (1.0, 1), (1.0, 2)]):
        group = f"alpha={alpha:g},norm=none"
        values = {"student.alpha": alpha, "encoder.norm": "none", "projector.out_dim": 1024}
        runs.append(BoardRun(f"{group},seed={seed}", group, root / "runs" / f"distill-{number}", values))
    for number, run in enumerate(runs[:4]):
        writer = BoardWriter(run.folder)
        writer.settings({"student": {"alpha": 0.0}, "unvaried": "not shown"})
        for step in range(0, 101, 20):
            values = {
                "probe/student/linear": 0.3012 + number / 10 + step / 1000,
                "probe/teacher/linear": 0.25,
            }
            writer.scalars(step, values)
        writer.close("done" if number < 3 else None)
    board = root / "sweeps" / "demo" / "board"
    build_sweep_board(board, runs, METRICS)
    return board, runs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[BoardRun]]:
    return write_sweep(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def address(store: tuple[Path, list[BoardRun]]) -> Iterator[str]:
    board, runs = store
    described = json.dumps([asdict(run) for run in runs], default=str)
    command = [sys.executable, "-c", SERVE, str(board), described, json.dumps(METRICS)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = server.stdout.readline().strip()
    try:
        assert found.startswith("http://127.0.0.1:"), server.communicate(timeout=60)
        yield found
    finally:
        server.send_signal(signal.SIGINT)
        _, noise = server.communicate(timeout=60)
    # An interrupt is the ordinary way to leave, and nothing but the address was said.
    assert (server.returncode, noise) == (0, "")


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium, "this test needs Chromium: apt-get install chromium"
    assert driver, "this test needs its driver: apt-get install chromium-driver"
    options = Options()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory() as profile:
        quiet = ["disable-quic", "no-first-run", "disable-background-networking", "disable-component-update"]
        flags = ["headless", "no-sandbox", "disable-gpu", "disable-sync", *quiet, "window-size=1600,1000"]
        for flag in [*flags, f"user-data-dir={profile}"]:
            options.add_argument(f"--{flag}")
        chrome = webdriver.Chrome(options, Service(driver))
        try:
            yield chrome
        finally:
            chrome.quit()


def shown(browser: webdriver.Chrome, *wanted: str) -> str:
    """All text on the page, once it holds everything ``wanted``."""

    def complete(browser: webdriver.Chrome) -> str | None:
        text: str = browser.execute_script(ALL_TEXT)
        return text if all(word in text for word in wanted) else None

    text: str = WebDriverWait(browser, 90).until(complete, f"not shown: {wanted}")
    return text


def keep_picture(browser: webdriver.Chrome, name: str) -> None:
    """Leave a picture for people to look at in the folder RT_SCALE_SHOTS, where that is set."""
    if folder := os.environ.get("RT_SCALE_SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def session_groups(address: str) -> dict[str, Any]:
    """What the HParams view is made of, by group."""
    statuses = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    question = {"experimentName": "", "allowedStatuses": statuses, "colParams": [], "sliceSize": 100}
    request = urllib.request.Request(
        f"{address}data/plugin/hparams/session_groups",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return {group["name"]: group for group in json.load(answer)["sessionGroups"]}


def test_curves_of_every_run(store: tuple[Path, list[BoardRun]], address: str, browser: webdriver.Chrome) -> None:
    begun = [run.label for run in store[1][:4]]
    browser.get(f"{address}#timeseries")
    # The last value of each curve stands in the table under its chart.
    shown(browser, *begun, *METRICS, "0.4012", "0.5012", "0.6012", "0.7012")
    keep_picture(browser, "timeseries")
    browser.get(f"{address}#scalars")
    shown(browser, *begun, *METRICS)
    assert browser.title == "rt-scale: demo"


def test_hparams_lists_every_axis_and_metric(
    store: tuple[Path, list[BoardRun]], address: str, browser: webdriver.Chrome
) -> None:
    browser.get(f"{address}#hparams")
    groups = [run.group for run in store[1]]
    text = shown(browser, *store[1][0].values, *METRICS, *groups)
    keep_picture(browser, "hparams")
    assert "unvaried" not in text
    answer = session_groups(address)
    assert set(answer) == set(groups)
    group = answer["alpha=0.25,norm=none"]
    assert group["hparams"] == {"student.alpha": 0.25, "encoder.norm": "none", "projector.out_dim": 1024}
    assert [session["status"] for session in group["sessions"]] == ["STATUS_SUCCESS", "STATUS_SUCCESS"]
    means = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
    # Seeds 0 and 1 end at 0.4012 and 0.5012.
    assert means == pytest.approx({"probe/student/linear": 0.4512, "probe/teacher/linear": 0.25})


def test_a_run_that_begins_while_one_watches(
    store: tuple[Path, list[BoardRun]], address: str, browser: webdriver.Chrome
) -> None:
    with BoardWriter(store[1][4].folder) as writer:
        writer.scalars(20, {"probe/late": 0.5})
        browser.get(f"{address}#scalars")

        def arrived(browser: webdriver.Chrome) -> bool:
            browser.refresh()
            return "probe/late" in shown(browser, METRICS[0])

        WebDriverWait(browser, 90, poll_frequency=2).until(arrived, "the new curve is not shown")
        keep_picture(browser, "late")
