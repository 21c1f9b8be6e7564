"""The comparison view of a finished sweep as a person sees it: a real TensorBoard server in a real browser."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats
from selenium.webdriver.remote.webelement import WebElement

from rt_scale.experiments.options import Options
from rt_scale.experiments.other_data import DataHere
from rt_scale.experiments.runner import run
from rt_scale.report.board import pinned
from rt_scale.report.report import make_report
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.metrics import read_metrics
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns, read_sweep
from tests.integration.browser import Browser, opened, served

SWEEP: dict[str, Any] = {
    "name": "demo",
    "base": {
        "data": {"name": "digits", "samples": 120},
        "encoder": {"name": "convnet_4_1"},
        "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 16},
        "train": {"epochs": 4, "batch_size": 32, "optimizer": {"name": "adamw", "lr": 0.03}},
        "probe": {"every": "1ep", "knn": 5, "epochs": 5, "batch_size": 32, "lr": 0.01, "standardized": False},
    },
    "axes": {"student.alpha": [1e-10, 0.5], "projector.out_dim": [16, 64], "encoder.norm": ["none"]},
    "seeds": 3,
}
CONFIGURATIONS = [f"alpha={alpha},out_dim={dim}" for alpha in ("0.5", "1e-10") for dim in (16, 64)]
FIGURES = [f"figures/{what}-{probe}" for what in ("curves", "gain") for probe in ("knn", "linear")]
STUDENT = "probe/student/linear"


@dataclass(frozen=True)
class Sweep:
    """A sweep file with its store.

    Attributes:
        points: its runs.
    """

    file: Path
    store: Store
    points: list[Point]

    def curve(self, point: Point, metric: str) -> list[float]:
        """The values of a metric as a run's table has them."""
        table = read_metrics(self.store.run(point.spec).metrics_path).to_pydict()
        return [value for name, value in zip(table["name"], table["value"], strict=True) if name == metric]

    def last_mean(self, configuration: str, metric: str) -> float:
        """The mean over seeds of a metric's last values."""
        # The norm is an axis that does not vary: the view leaves it out of its names.
        members = [point for point in self.points if point.configuration == f"{configuration},norm=none"]
        assert len(members) == 3
        return fmean(self.curve(point, metric)[-1] for point in members)


def write_sweep(root: Path, changes: dict[str, Any]) -> Sweep:
    file = root / "demo.yaml"
    file.write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False))
    return Sweep(file, Store(root / "store"), load_sweep(file)[1])


def compute(point: Point, sweep: Sweep, data_dir: Path) -> None:
    run(point.spec, Options(store=sweep.store, data_dir=data_dir, device="cpu", threads=1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Sweep:
    sweep = write_sweep(tmp_path_factory.mktemp("finished"), {})
    for point in sweep.points:
        compute(point, sweep, data_dir)
    make_report([read_sweep(sweep.file, (), sweep.store)], "last", DataHere(data_dir))
    return sweep


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opened(tmp_path_factory.mktemp("pictures")) as found:
        yield found


@pytest.fixture(scope="module")
def address(finished: Sweep, browser: Browser) -> Iterator[str]:
    """Once the figures of the report are there."""
    with served(finished.file, finished.store.root) as found:
        browser.until(lambda: sorted(asked(found, "images/tags")["sweep"]) == FIGURES, FIGURES)
        yield found


def cells(browser: Browser) -> list[str]:
    return browser.texts("vaadin-grid-cell-content")


def test_the_table_has_a_row_for_each_configuration_and_a_typed_column_for_each_axis(
    finished: Sweep, address: str, browser: Browser
) -> None:
    columns = ["alpha", "log10 alpha", "log2 out_dim", "student linear", "teacher linear", "student knn", "teacher knn"]
    columns.append("seeds")
    titles, width = ["Trial ID", "Show Metrics", *columns], len(columns) + 1

    def table() -> list[str]:
        """All cells, once the page is built."""
        shown = cells(browser)
        return shown if len(shown) == len(titles) + len(CONFIGURATIONS) * width else []

    browser.open(f"{address}#hparams")
    shown = browser.until(table, "a table of four rows")
    assert browser.chrome.title == "rt-scale: demo"
    assert shown[: len(titles)] == titles
    rows = np.reshape(shown[len(titles) :], (-1, width))
    assert rows[:, 0].tolist() == CONFIGURATIONS
    alphas = [["0.50000", "-0.30103", dim] for dim in ("4.0000", "6.0000")]
    alphas += [["1.0000e-10", "-10.000", dim] for dim in ("4.0000", "6.0000")]
    assert rows[:, 1:4].tolist() == alphas
    for row in rows:
        means = [finished.last_mean(row[0], f"probe/{column.replace(' ', '/')}") for column in columns[3:-1]]
        means.append(3)
        assert [float(value) for value in row[4:]] == pytest.approx(means, rel=1e-4)
    browser.picture("hparams")


def test_an_axis_is_chosen_from_by_its_values(address: str, browser: Browser) -> None:
    browser.open(f"{address}#hparams")
    browser.until(lambda: set(CONFIGURATIONS) <= set(cells(browser)), CONFIGURATIONS)
    offered = ["alpha", "1.0000e-10", "0.50000", "log10 alpha", "-10.000", "-0.30103", "log2 out_dim", "4.0000"]
    offered.append("6.0000")
    browser.until(lambda: browser.texts(".discrete-value-checkbox, .hparam-checkbox") == offered, offered)
    browser.click(".discrete-value-checkbox", "1.0000e-10")
    left = set(CONFIGURATIONS[:2])
    browser.until(lambda: left == {text for text in cells(browser) if text.startswith("alpha=")}, left)


def test_parallel_coordinates_have_an_axis_for_everything_and_a_line_for_each_configuration(
    address: str, browser: Browser
) -> None:
    browser.open(f"{address}#hparams")
    browser.click("paper-tab", "parallel")
    axes = ["alpha", "log10 alpha", "log2 out_dim", "student linear", "teacher linear", "student knn", "teacher knn"]
    browser.until(lambda: browser.texts("text.axis-title") == [*axes, "seeds"], axes)

    def lines() -> list[str | None]:
        return [line.get_attribute("d") for line in browser.find("g.foreground > path")]

    browser.until(lambda: len(set(lines())) == len(lines()) == len(CONFIGURATIONS), "four lines")

    def ticks() -> list[set[str]]:
        return [{tick.text for tick in browser.find("g.tick", axis)} for axis in browser.find("g.axis")]

    browser.until(lambda: {"0.10", "0.50"} < ticks()[0] and {"4.0", "6.0"} < ticks()[2], "ticks")
    browser.picture("parallel")


def chart(browser: Browser, metric: str) -> WebElement:
    """The margin chart of a metric, once it is drawn."""
    title = f"{metric}: mean and 95 % interval"
    cards = browser.until(
        lambda: [
            card
            for card in browser.find("tf-custom-scalar-margin-chart-card")
            if title in browser.texts("tf-card-heading", card) and browser.find("path.line", card)
        ],
        title,
    )
    return cards[0]


def drawn(browser: Browser, card: WebElement, kind: str) -> list[str]:
    """The shapes of a chart's lines or bands ("area"), of those that can be drawn."""
    return [shape for path in browser.find(f"path.{kind}", card) if (shape := path.get_attribute("d"))]


def test_a_margin_chart_has_a_line_and_a_band_for_each_configuration(
    finished: Sweep, address: str, browser: Browser
) -> None:
    browser.open(f"{address}#custom_scalars")
    card = chart(browser, STUDENT)
    browser.until(lambda: "Matches (4)" in card.text, "four lines")
    browser.click(".toggle-matches-button", within=card)
    named = {f"◼ with interval/{STUDENT}/mean ({name})" for name in CONFIGURATIONS}
    browser.until(lambda: set(browser.texts(".match-list-entry", card)) == named, named)
    browser.until(lambda: len(drawn(browser, card, "area")) == len(CONFIGURATIONS), "four bands")
    assert "Missing" not in card.text
    probes = [f"probe/{role}/{kind}" for kind in ("linear", "knn") for role in ("student", "teacher", "input")]
    rest = ["train/loss", "train/kl", "distance/from_init", "distance/from_teacher"]
    headings = [f"{metric}: mean and 95 % interval" for metric in (*probes, *rest)]
    browser.until(lambda: browser.texts("tf-card-heading") == headings, headings)
    groups = ["linear probe", "kNN probe", "loss", "distances"]
    browser.until(lambda: [text.split("\n")[0] for text in browser.texts(".heading")] == groups, groups)
    browser.click("paper-icon-button[icon=fullscreen]", within=card)
    browser.picture("margin")


def test_what_is_shown_first_are_the_means_and_no_single_runs(finished: Sweep, address: str, browser: Browser) -> None:
    browser.open(address)
    shown = sorted([*CONFIGURATIONS, "sweep"])
    rows = "runs-data-table tb-data-table-content-row"
    browser.until(lambda: sorted(browser.texts(rows)) == shown, shown)
    cards = ["distance2 cards", "figures4 cards", "probe6 cards", "seeds", "train2 cards", "with interval30 cards"]
    browser.until(lambda: browser.texts("metrics-card-group-toolbar") == cards, cards)
    browser.picture("timeseries")


def test_the_students_charts_are_pinned_and_not_smoothed(finished: Sweep, address: str, browser: Browser) -> None:
    browser.open(pinned(address, [SweepRuns(*load_sweep(finished.file), finished.store)]))
    cards = "metrics-pinned-view card-view"
    browser.until(lambda: len(browser.find(cards)) == 2, "two")
    titles = ["probe/student/linear", "probe/student/knn"]
    browser.until(lambda: ["".join(text.split("\n")[:2]) for text in browser.texts(cards)] == titles, titles)
    # With smoothing each run would have a second value: Run, Smoothed, Value.
    assert all("Run\nValue\n" in text for text in browser.texts(cards))
    browser.picture("pinned")


def test_the_figures_of_the_report_are_images(finished: Sweep, address: str, browser: Browser) -> None:
    browser.open(f"{address}#images")
    selector, count = "img[src*=individualImage]", len(FIGURES)
    browser.until(lambda: sum(each.get_property("naturalWidth") > 0 for each in browser.find(selector)) == count, "all")
    folder = finished.store.sweep("demo").report
    figures = {(folder / f"{name.removeprefix('figures/')}.png").read_bytes() for name in FIGURES}
    assert {read(str(image.get_property("src"))) for image in browser.find(selector)} == figures
    browser.picture("images")


def test_means_follow_the_seeds_while_one_watches(tmp_path: Path, data_dir: Path, browser: Browser) -> None:
    """One seed has a line without a band; with the third, the line has moved to the mean and gets its band."""
    sweep = write_sweep(tmp_path, {"axes": {"student.alpha": [0.5, 1.0]}})
    first, *others = (point for point in sweep.points if point.values["student.alpha"] == 0.5)
    compute(first, sweep, data_dir)
    with served(sweep.file, sweep.store.root) as address:
        browser.open(f"{address}#custom_scalars")
        card = chart(browser, STUDENT)
        browser.until(lambda: "Matches (1)" in card.text, "one line")
        alone = drawn(browser, card, "line")
        assert drawn(browser, card, "area") == []
        assert "Missing" not in card.text
        browser.picture("one-seed")
        for point in others:
            compute(point, sweep, data_dir)

        def known() -> bool:
            return "NaN" not in answer(address, "alpha=0.5", f"with interval/{STUDENT}/lower")

        browser.until(known, "an interval")
        browser.open(f"{address}#custom_scalars")
        card = chart(browser, STUDENT)
        browser.until(lambda: drawn(browser, card, "area"), "a band")
        assert drawn(browser, card, "line") != alone
        values = np.array([sweep.curve(point, STUDENT) for point in (first, *others)])
        mean, half = values.mean(axis=0), stats.t.ppf(0.975, 2) * values.std(axis=0, ddof=1) / np.sqrt(3)
        low, high = np.maximum(mean - half, 0), np.minimum(mean + half, 1)
        for name, expected in (("mean", mean), ("lower", low), ("upper", high)):
            assert answer(address, "alpha=0.5", f"with interval/{STUDENT}/{name}") == pytest.approx(expected)


def answer(address: str, run: str, tag: str) -> list[float | str]:
    """What the server tells the charts; "NaN" is text."""
    question = urllib.parse.urlencode({"run": run, "tag": tag})
    return [value for _, _, value in asked(address, f"custom_scalars/scalars?{question}")["tag_to_events"][tag]]


def asked(address: str, question: str) -> Any:
    """What a plugin of the server answers."""
    return json.loads(read(f"{address}data/plugin/{question}"))


def read(address: str) -> bytes:
    """What is there."""
    with urllib.request.urlopen(address) as reply:
        data: bytes = reply.read()
    return data
