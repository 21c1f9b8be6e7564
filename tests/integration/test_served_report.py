"""A report that is served while its runs are executed, in a browser."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from tests.integration.browser import Browser, opened
from tests.integration.sweeping import SLOW, slow_down

Start = Callable[..., subprocess.Popen[str]]
SWEEP: dict[str, Any] = {
    "name": "live",
    "base": {**SLOW, "data": {"name": "digits", "samples": 97}, "train": {**SLOW["train"], "batch_size": 32},
             "probe": {"every": "1ep", "knn": 5, "epochs": 2, "standardized": False}},
    "axes": {"student.alpha": [1e-10, 0.5, 1.0]},
    "seeds": 1,
}  # fmt: skip


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, runs are slow."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    gate = slow_down(tmp_path)
    monkeypatch.setenv("SLOW", str(gate))
    return gate


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with opened(tmp_path / "pictures") as found:
        yield found


@pytest.fixture
def begun(tmp_path: Path, data_dir: Path, start: Start, gate: Path) -> tuple[list[Point], subprocess.Popen[str]]:
    """A sweep of three runs: two are finished, the third is being executed, slowly."""
    file, store = tmp_path / "live.yaml", tmp_path / "store"
    file.write_text(yaml.safe_dump(SWEEP))
    points = load_sweep(file)[1]
    gate.unlink()
    for point in points[:2]:
        run(point.spec, Options(store=Store(store), data_dir=data_dir, device="cpu", threads=1))
    gate.touch()
    (tmp_path / "last.yaml").write_text(yaml.safe_dump({**SWEEP["base"], "student": {"alpha": 1.0}}))
    command = ["run", tmp_path / "last.yaml", "--store", store, "--data-dir", data_dir, "--device", "cpu"]
    return points, start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_the_page_follows_a_run_and_a_reader_keeps_their_place(
    tmp_path: Path, begun: tuple[list[Point], subprocess.Popen[str]], start: Start, gate: Path, browser: Browser
) -> None:
    points, running = begun
    server = start("report", tmp_path / "live.yaml", "--store", tmp_path / "store", "--serve", "--port", 0)
    assert server.stdout is not None
    (address,) = re.findall(r"^Report: (http://localhost:\d+/) \(Ctrl-C ends it\)", server.stdout.readline())
    browser.open(address)
    browser.until(lambda: browser.texts("#counts") == ["2 of 3 done, 1 running"], "what is running")
    browser.until(lambda: "cpu on " in browser.texts("#running-now tbody tr")[0], "where")
    (row,) = browser.texts("#running-now tbody tr")
    assert points[2].label in row
    browser.until(
        lambda: re.search(r"[1-9]\d* of 12 about (\d+m )?\d+s", browser.texts("#running-now tbody tr")[0]), "epochs"
    )
    for look, width in (("light", 1400), ("dark", 400)):
        browser.prefer(look)
        assert browser.fits(width)
        browser.picture(f"served-{look}-{width}")
    assert browser.serious() == []

    # A reader opens the base spec, sorts downwards, and scrolls.
    browser.click("#base summary")
    for _ in range(2):
        browser.click("#table-linear th button")
    browser.chrome.execute_script("document.querySelector('#tables').scrollIntoView()")
    top = "return document.querySelector('#tables').getBoundingClientRect().top"
    before = browser.chrome.execute_script(top)
    rows = len(browser.find("#runs tr"))
    gate.unlink()
    assert running.wait(240) == 0, running.stderr and running.stderr.read()
    browser.until(lambda: browser.texts("#counts") == ["3 of 3 done"], "the end")
    browser.until(lambda: browser.texts("#finished") == ["Sweep live. 3 of 3 runs finished."], "the new report")
    assert browser.texts("#running") == ["All runs have ended."]
    assert browser.find("#base")[0].get_attribute("open")
    assert browser.find("#table-linear th")[0].get_attribute("aria-sort") == "descending"
    alphas = [row.text.split()[0] for row in browser.find("#table-linear tbody tr")]
    assert alphas == ["1", "0.5", "1e-10"]
    assert "missing" not in browser.texts("main")[0]
    assert abs(before) < 5
    assert abs(browser.chrome.execute_script(top) - before) < 5
    assert len(browser.find("#runs tr")) == rows
    asked = browser.chrome.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert {name for name in asked if not name.startswith(address)} == set()
    assert [entry for entry in browser.chrome.get_log("browser") if entry["level"] == "SEVERE"] == []
    (link,) = browser.find("#runs a")[:1]
    browser.open(str(link.get_attribute("href")))
    assert "result.json" in browser.texts("body")[0]

    browser.open(address)
    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=240)
    assert (server.returncode, err) == (0, "")
    assert out.startswith("Ended. The report stays: open file://")
    browser.until(lambda: "server has ended" in browser.texts("#counts")[0], "that the server has ended")
