"""The report of a real small sweep as a person sees it: the page in a browser, and the same as files."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml
from selenium.webdriver.common.keys import Keys

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.report.statistics import estimate
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from tests.integration.browser import Browser, opened
from tests.integration.conftest import PROGRAM

SWEEP: dict[str, Any] = {
    "name": "near_and_far",
    "experiment": "fig3",
    "base": {
        "data": {"name": "digits", "samples": 400},
        "encoder": {"name": "convnet_8_2"},
        "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 256},
        "train": {"epochs": 4, "batch_size": 64, "optimizer": {"name": "adamw", "lr": 0.003}},
        "probe": {"every": "1ep", "knn": 5, "epochs": 5, "batch_size": 32, "lr": 0.01, "standardized": False},
    },
    "axes": {"student.alpha": [1e-10, 0.3, 1.0]},
    "seeds": 3,
}
REASON = "the loss is <script>document.title = 'taken'</script> & not finite"


@dataclass(frozen=True)
class Reported:
    """A sweep of nine runs, of which one failed and one was never begun.

    Attributes:
        file: the sweep file.
        store: with its report.
        points: its runs, the failed one last but one and the missing one last.
        out: what the command printed.
    """

    file: Path
    store: Store
    points: list[Point]
    out: str

    @property
    def folder(self) -> Path:
        return self.store.sweep("near_and_far").report

    def values(self, alpha: float, metric: str) -> list[float]:
        """The last values of the finished runs at ``alpha``, by seed."""
        results = [
            self.store.run(point.spec).result() for point in self.points if point.values["student.alpha"] == alpha
        ]
        return [result.last[metric] for result in results if result is not None]


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, "report", *map(str, arguments)], capture_output=True, text=True, timeout=480)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Reported:
    root = tmp_path_factory.mktemp("reported")
    file, store = root / "near_and_far.yaml", Store(root / "store")
    file.write_text(yaml.safe_dump(SWEEP, sort_keys=False))
    points = load_sweep(file)[1]
    for point in points[:7]:
        run(point.spec, Options(store=store, data_dir=data_dir, device="cpu", threads=1))
    failed = store.run(points[7].spec)
    with failed.acquire():
        failed.write_spec(points[7].spec)
        failed.fail({"reason": REASON})
    ended = report(file, "--store", store.root)
    assert ended.returncode == 0, ended.stderr
    return Reported(file, store, points, ended.stdout)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opened(tmp_path_factory.mktemp("pictures")) as found:
        yield found


@pytest.fixture
def page(reported: Reported, browser: Browser) -> Browser:
    browser.open((reported.folder / "report.html").as_uri())
    return browser


def cells(browser: Browser, table: str) -> list[list[str]]:
    """What is written in a table, row by row under its titles."""
    (found,) = browser.find(f'[id="{table}"]')
    return [[" ".join(cell.text.split()) for cell in browser.find("td", row)] for row in browser.find("tr", found)][1:]


def test_the_page_says_what_it_is_of(page: Browser) -> None:
    assert page.chrome.title == "rt-scale: Locality of the start, alpha (figures 3 and 17)"
    assert page.texts("h1") == ["Locality of the start, alpha (figures 3 and 17)"]
    assert page.texts("#finished") == ["Sweep near_and_far. 7 of 9 runs finished."]
    (data,) = page.texts("#data")
    assert data.startswith("Digits (digits, sha256 ")
    assert any("Not the paper's setting: samples = 400, " in note for note in page.texts(".note"))
    page.picture("report")


def test_numbers_are_means_over_finished_seeds_and_lead_to_their_runs(reported: Reported, page: Browser) -> None:
    rows = cells(page, "table-linear")
    assert [row[:2] for row in rows] == [["1e-10", "3"], ["0.3", "2 of 3 (1 failed)"], ["1", "2 of 3 (1 missing)"]]
    for row, alpha in zip(rows, (1e-10, 0.3, 1.0), strict=True):
        student, teacher = (reported.values(alpha, f"probe/{role}/linear") for role in ("student", "teacher"))
        assert row[4] == estimate(student, (0.0, 1.0)).percent_interval
        assert ("[" in row[4]) == (len(student) >= 3)
        assert row[5] == estimate([a - b for a, b in zip(student, teacher, strict=True)], (-1.0, 1.0)).points
        assert len(row) == 6  # the paper has no digits
    links = page.find("[id='table-linear'] td a")
    assert len(links) == 3 * 5
    for link in links:
        target = str(link.get_attribute("href")).partition("#")[2]
        (row,) = page.find(f'[id="{target}"]')
        for run_link in page.find("a", row):
            address = urllib.parse.urlparse(str(run_link.get_attribute("href")))
            assert Path(address.path).exists(), address
    named = {Path(urllib.parse.urlparse(str(link.get_attribute("href"))).path).name
             for link in page.find("#runs a")}  # fmt: skip
    assert named == {"spec.json"} | {point.spec.name for point in reported.points[:8]}


def test_what_has_no_result_is_told_with_its_reason(page: Browser) -> None:
    failed, missing = cells(page, "unfinished")
    assert failed == ["alpha=0.3,seed=2", "failed", REASON, "1"]
    assert missing[:2] == ["alpha=1,seed=2", "missing"]


def test_claims_without_three_seeds_are_undecided(reported: Reported, page: Browser) -> None:
    rows = cells(page, "verdicts")
    assert [row[0] for row in rows] == ["undecided"] * 3
    assert rows[0][1:3] == ["Students are alike for alpha up to 0.6.", "Digits, linear probe"]
    assert all(row[3].startswith("too few seeds (3 are needed): ") for row in rows)
    assert reported.out.count("\nundecided Students are alike for alpha up to 0.6. (Digits, linear probe)") == 1


def test_figures_are_in_the_page_with_the_papers_axes(page: Browser) -> None:
    figures = page.find("figure")
    assert len(figures) == 5  # figure 3 under both probes, its gains, figure 17
    texts = [" ".join(text.get_attribute("textContent") or "" for text in page.find("svg text", figure))
             for figure in figures]  # fmt: skip
    curves = [text for text in texts if "epoch" in text and "probing accuracy (%)" in text]
    assert len(curves) == 2
    for text in curves:
        assert all(word in text for word in ("alpha = 0.3", "teacher", "convnet_8_2"))
    assert sum("KL divergence" in text and "distance from start" in text for text in texts) == 1
    for figure in figures:
        shown = figure.rect
        assert shown["width"] > 400
        assert shown["height"] > 200


def test_nothing_is_asked_for_and_no_foreign_script_is_run(page: Browser) -> None:
    assert page.chrome.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert len(page.find("script")) == 1  # the one that sorts tables
    assert "taken" not in page.chrome.title
    assert [entry for entry in page.chrome.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_table_is_sorted_with_the_keyboard(page: Browser) -> None:
    before = [row[0] for row in cells(page, "table-linear")]
    (title, *_) = page.find("#table-linear th button")
    title.send_keys(Keys.ENTER)
    title.send_keys(Keys.ENTER)
    after = [row[0] for row in cells(page, "table-linear")]
    assert after == sorted(before, key=float, reverse=True) != before
    assert page.find("#table-linear th")[0].get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("look", ["light", "dark"])
def test_people_who_cannot_see_well_can_read_it(page: Browser, look: str) -> None:
    """No finding of axe-core that it calls serious or critical."""
    page.prefer(look)
    assert page.serious() == []
    page.picture(f"report-{look}")


@pytest.mark.parametrize("width", [400, 1400, 2000])
def test_it_is_no_wider_than_its_window(page: Browser, width: int) -> None:
    try:
        assert page.fits(width)
        page.picture(f"report-{width}")
    finally:
        page.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_same_is_there_as_files(reported: Reported) -> None:
    text = (reported.folder / "report.md").read_text()
    assert "| undecided | Students are alike for alpha up to 0.6. |" in text
    assert "&lt;script&gt;" in text
    table = pq.read_table(reported.folder / "report.parquet").to_pylist()
    linear = [row for row in table if row["probe"] == "linear"]
    assert [(row["alpha"], row["n"], row["failed"], row["missing"]) for row in linear] == [
        ("1e-10", 3, 0, 0), ("0.3", 2, 1, 0), ("1", 2, 0, 1)
    ]  # fmt: skip
    assert linear[0]["student_mean"] == pytest.approx(fmean(reported.values(1e-10, "probe/student/linear")))
    assert {row["epoch"] for row in table} == {"last"}
    assert pacsv.read_csv(reported.folder / "report.csv").num_rows == len(table) == 6
    verdicts = pq.read_table(reported.folder / "verdicts.parquet").to_pylist()
    assert {row["verdict"] for row in verdicts} == {"undecided"}
    for name in ("figure-3-linear", "figure-3-knn", "figure-17"):
        assert (reported.folder / f"{name}.svg").read_text().rstrip().endswith("</svg>")
        assert (reported.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_epoch_is_called_so(reported: Reported, tmp_path: Path, browser: Browser) -> None:
    # A copy, as others may look at the report of last epochs after this.
    shutil.copytree(reported.file.parent, tmp_path / "copy")
    best_of = replace(reported, file=tmp_path / "copy" / reported.file.name, store=Store(tmp_path / "copy" / "store"))
    assert report(best_of.file, "--store", best_of.store.root, "--best").returncode == 0
    browser.open((best_of.folder / "report.html").as_uri())
    captions = [text for text in browser.texts(".note") if "test accuracy in %" in text]
    assert len(captions) == 2
    assert all("student at its best probed epoch" in text for text in captions)
    results = [reported.store.run(point.spec).result() for point in reported.points[::3]]
    best = [result.best["probe/student/linear"].value for result in results if result is not None]
    assert cells(browser, "table-linear")[0][4].startswith(f"{100 * fmean(best):.1f} ± ")


def test_sweeps_of_one_experiment_on_other_data_are_refused(reported: Reported, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    base = {**SWEEP["base"], "data": {"name": "digits", "samples": 300}}
    other.write_text(yaml.safe_dump({**SWEEP, "name": "other", "base": base}))
    ended = report(reported.file, other, "--store", reported.store.root)
    assert ended.returncode == 2
    assert "'near_and_far' has digits samples 400, 'other' has digits samples 300" in ended.stderr
    assert "not merged" in ended.stderr


def test_sweeps_of_one_experiment_on_the_same_data_are_one_report(reported: Reported, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**SWEEP, "name": "other", "axes": {"student.alpha": [0.3, 0.9]}}))
    ended = report(reported.file, other, "--store", reported.store.root, "--json")
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)["tables"]["linear"]
    assert [row["values"]["student.alpha"] for row in rows] == [1e-10, 0.3, 1.0]
    page = (reported.folder / "with-other" / "report.html").read_text()
    assert "Sweeps near_and_far, other. 7 of 12 runs finished." in page
