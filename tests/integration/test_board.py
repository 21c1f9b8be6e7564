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
        "train": {"epochs": 2, "batch_size": 32, "optimizer": {"name": "adamw", "lr": 0.03}},
        "probe": {"every": "1ep", "knn": 5, "epochs": 5, "batch_size": 32, "lr": 0.01, "standardized": False},
    },
    "axes": {"student.alpha": [0.5, 1e-10], "projector.out_dim": [64, 4, 16], "encoder.norm": ["none"]},
    "seeds": 3,
}
VALUES = [(alpha, dim) for alpha in ("1e-10", "0.5") for dim in (4, 16, 64)]
CONFIGURATIONS = [f"{number} alpha={alpha},out_dim={dim}" for number, (alpha, dim) in enumerate(VALUES, 1)]
FEW = CONFIGURATIONS[:3]
"""Those that charts with intervals show first: one alpha."""
FIGURES = [f"figures/{what}-{probe}" for what in ("curves", "gain") for probe in ("knn", "linear")]
STUDENT = "probe/student/linear"
COLUMNS = ["alpha", "alpha (log10)", "out_dim", "out_dim (log2)"]
COLUMNS += ["student linear", "teacher linear", "student knn", "teacher knn", "seeds"]


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
        _, _, name = configuration.partition(" ")
        members = [point for point in self.points if point.configuration == f"{name},norm=none"]
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
    titles, width = ["Trial ID", "Show Metrics", *COLUMNS], len(COLUMNS) + 1

    def table() -> list[str]:
        """All cells, once the page is built."""
        shown = cells(browser)
        return shown if len(shown) == len(titles) + len(CONFIGURATIONS) * width else []

    browser.open(f"{address}#hparams")
    shown = browser.until(table, "a table of six rows")
    assert browser.chrome.title == "rt-scale: demo"
    assert shown[: len(titles)] == titles
    rows = np.reshape(shown[len(titles) :], (-1, width))
    assert rows[:, 0].tolist() == CONFIGURATIONS
    dims = [["4.0000", "2.0000"], ["16.000", "4.0000"], ["64.000", "6.0000"]]
    alphas = [["1.0000e-10", "-10.000"], ["0.50000", "-0.30103"]]
    assert rows[:, 1:5].tolist() == [alpha + dim for alpha in alphas for dim in dims]
    for row in rows:
        means = [finished.last_mean(row[0], f"probe/{column.replace(' ', '/')}") for column in COLUMNS[4:-1]]
        means.append(3)
        assert [float(value) for value in row[5:]] == pytest.approx(means, rel=1e-4)
    browser.picture("hparams")


def test_an_axis_is_chosen_from_by_its_values(address: str, browser: Browser) -> None:
    browser.open(f"{address}#hparams")
    browser.until(lambda: set(CONFIGURATIONS) <= set(cells(browser)), CONFIGURATIONS)
    offered = ["alpha", "1.0000e-10", "0.50000", "alpha (log10)", "-10.000", "-0.30103"]
    offered += ["out_dim", "4.0000", "16.000", "64.000", "out_dim (log2)", "2.0000", "4.0000", "6.0000"]
    browser.until(lambda: browser.texts(".discrete-value-checkbox, .hparam-checkbox") == offered, offered)
    browser.click(".discrete-value-checkbox", "1.0000e-10")
    left = CONFIGURATIONS[3:]
    browser.until(lambda: left == [text for text in cells(browser) if "alpha=" in text], left)


def test_parallel_coordinates_have_an_axis_for_everything_and_a_line_for_each_configuration(
    address: str, browser: Browser
) -> None:
    browser.open(f"{address}#hparams")
    browser.click("paper-tab", "parallel")
    browser.until(lambda: browser.texts("text.axis-title") == COLUMNS, COLUMNS)

    def lines() -> list[str | None]:
        return [line.get_attribute("d") for line in browser.find("g.foreground > path")]

    browser.until(lambda: len(set(lines())) == len(lines()) == len(CONFIGURATIONS), "six lines")

    def ticks() -> list[set[str]]:
        return [{tick.text for tick in browser.find("g.tick", axis)} for axis in browser.find("g.axis")]

    browser.until(lambda: {"0.10", "0.50"} < ticks()[0] and {"4.0", "6.0"} < ticks()[3], "ticks")
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


def test_a_margin_chart_has_a_line_and_a_band_for_each_of_a_few_configurations(address: str, browser: Browser) -> None:
    """Along one axis; teacher and input, which are constant, have no chart."""
    browser.open(f"{address}#custom_scalars")
    card = chart(browser, STUDENT)
    browser.until(lambda: "Matches (3)" in card.text, "three lines")
    browser.click(".toggle-matches-button", within=card)
    named = {f"◼ with interval/{STUDENT}/mean ({name})" for name in FEW}
    browser.until(lambda: set(browser.texts(".match-list-entry", card)) == named, named)
    browser.until(lambda: len(drawn(browser, card, "area")) == len(FEW), "three bands")
    assert "Missing" not in card.text
    metrics = [STUDENT, "probe/student/knn", "train/loss", "train/kl", "distance/from_init", "distance/from_teacher"]
    headings = [f"{metric}: mean and 95 % interval" for metric in metrics]
    browser.until(lambda: browser.texts("tf-card-heading") == headings, headings)
    groups = ["linear probe", "kNN probe", "loss", "distances"]
    groups += [f"{group}, every configuration" for group in groups]
    browser.until(lambda: [text.split("\n")[0] for text in browser.texts(".heading")] == groups, groups)
    ticked = browser.texts("tf-multi-checkbox")[0].splitlines()
    assert [line for line in ticked if line in CONFIGURATIONS] == CONFIGURATIONS
    browser.click("paper-icon-button[icon=fullscreen]", within=card)
    browser.picture("margin")
    browser.click(".heading", "linear probe, every")
    browser.until(lambda: "Matches (6)" in "".join(browser.texts("tf-custom-scalar-margin-chart-card")), "six lines")


def test_what_is_shown_first_are_the_means_and_no_single_runs(finished: Sweep, address: str, browser: Browser) -> None:
    browser.open(address)
    shown = ["sweep", *CONFIGURATIONS]
    rows = "runs-data-table tb-data-table-content-row"
    browser.until(lambda: browser.texts(rows) == shown, shown)
    cards = ["distance2 cards", "figures4 cards", "probe6 cards", "seeds", "train2 cards", "with interval18 cards"]
    cards.append("with interval, every configuration18 cards")
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
    first = browser.find(selector)[0]
    width = first.get_property("naturalWidth")
    assert first.get_property("clientWidth") < width
    browser.click("#main-image-container")
    browser.until(lambda: browser.find(selector)[0].get_property("clientWidth") == width, "its own size")


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
            return "NaN" not in answer(address, "1 alpha=0.5", f"with interval/{STUDENT}/lower")

        browser.until(known, "an interval")
        browser.open(f"{address}#custom_scalars")
        card = chart(browser, STUDENT)
        browser.until(lambda: drawn(browser, card, "area"), "a band")
        assert drawn(browser, card, "line") != alone
        values = np.array([sweep.curve(point, STUDENT) for point in (first, *others)])
        mean, half = values.mean(axis=0), stats.t.ppf(0.975, 2) * values.std(axis=0, ddof=1) / np.sqrt(3)
        low, high = np.maximum(mean - half, 0), np.minimum(mean + half, 1)
        for name, expected in (("mean", mean), ("lower", low), ("upper", high)):
            assert answer(address, "1 alpha=0.5", f"with interval/{STUDENT}/{name}") == pytest.approx(expected)


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
