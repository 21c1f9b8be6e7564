"""The interactive view of a computed plane, in a browser, from disk and without network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains

from rt_scale.experiments.options import Options
from rt_scale.experiments.other_data import DataHere
from rt_scale.experiments.runner import run
from rt_scale.report.page import Report
from rt_scale.report.report import make_report
from rt_scale.spec.grid import expand
from rt_scale.spec.run import all_runs
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from tests.integration.browser import Browser, opened

RUN: dict[str, Any] = {
    "kind": "distill", "data": {"name": "digits", "samples": 200}, "encoder": {"name": "convnet_8_2"},
    "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 128}, "train": {"epochs": 2, "batch_size": 64},
    "probe": {"every": "2ep", "epochs": 1, "standardized": False},
}  # fmt: skip
SWEEP = SweepSpec.model_validate({
    "name": "plane",
    "base": {
        "kind": "landscape", "points": [9, 8], "images": 50, "origin": {"run": RUN, "take": "teacher"},
        "x": {"run": {**RUN, "student": {"alpha": 0.5}}}, "y": {"run": {**RUN, "student": {"alpha": 1.0}}},
    },
})  # fmt: skip
"""With students that move on any machine: at alpha = 0 it is by rounding alone."""
HOVERED = """
document.querySelector('details.view div').on('plotly_hover', event => {
    const {x, y, z, customdata} = event.points[0];
    window.hovered = customdata && JSON.stringify({x, y, z, customdata});
});
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Report:
    store, points = Store(tmp_path_factory.mktemp("plane") / "store"), expand(SWEEP)
    for spec in all_runs(point.spec for point in points):
        run(spec, Options(store=store, data_dir=data_dir, device="cpu", threads=1))
    return make_report([SweepRuns(SWEEP, points, store)], "last", DataHere(data_dir))


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opened(tmp_path_factory.mktemp("pictures")) as browser:
        browser.open((report.folder / "report.html").as_uri())
        browser.until(lambda: browser.find("details.view canvas"), "a canvas")
        yield browser


def test_a_view_is_drawn_without_network(page: Browser) -> None:
    assert page.chrome.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert [entry for entry in page.chrome.get_log("browser") if entry["level"] == "SEVERE"] == []
    (view,) = page.find("details.view")
    page.chrome.execute_script("arguments[0].scrollIntoView()", view)
    page.picture("view")
    assert "KL to origin" in page.texts(".updatemenu-button, .updatemenu-header", view)[0]


def test_the_pointer_shows_the_numbers_of_the_point_below(report: Report, page: Browser) -> None:
    (view,) = report.analyses[0].views
    with np.load(next(path for path in view.files if path.suffix == ".npz")) as plane:
        x, y, kl = (plane[name] for name in ("x", "y", "kl_train"))
    (element,) = page.find("details.view div.js-plotly-plot")
    page.chrome.execute_script("arguments[0].scrollIntoView()", element)
    page.chrome.execute_script(HOVERED)

    def hovered() -> Any:
        for offset in range(-120, 120, 20):
            ActionChains(page.chrome).move_to_element_with_offset(element, offset, 60).pause(0.2).perform()
            if found := page.chrome.execute_script("return window.hovered"):
                return json.loads(found)
        return None

    found = page.until(hovered, "a point")
    place, *numbers = found["customdata"]
    row, column = (int(np.abs(axis - found[name]).argmin()) for axis, name in ((y, "y"), (x, "x")))
    assert place == f"({x[column]:.3g}, {y[row]:.3g})"
    assert float(numbers[0]) == pytest.approx(kl[row, column], rel=1e-2)
    assert f"at: {place}" in str(page.find(".hovertext")[0].get_attribute("textContent"))
    assert found["z"] == pytest.approx(math.log10(max(kl[row, column], 1e-7)), abs=1e-2)


def test_what_is_read_elsewhere_is_linked(report: Report, page: Browser) -> None:
    links = [str(link.get_attribute("href")) for link in page.find("details.view a")]
    assert [link.rpartition(".")[2] for link in links] == ["vtp", "npz"]
    assert all((report.folder / link.rpartition("/")[2]).exists() for link in links)
