"""Reports kept in a folder without their run directories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from rt_scale.experiments.other_data import DataHere
from rt_scale.report.page import Report
from rt_scale.report.report import make_report
from rt_scale.report.summary import machines, write_summary
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns

Make = Callable[..., Any]
BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def reports(store: Store, point: Make, result: Make, finish: Make) -> list[Report]:
    """An experiment of three finished runs and a missing one, and a sweep of one run that is none."""
    places = [point({}, seed) for seed in range(4)]
    attempt = {"device": "cpu", "gpu": None, "cpu": {"model": "Abacus 5", "cores": 2}, "versions": {"torch": "9.0"}}
    for seed, place in enumerate(places[:3]):
        code = {"git_commit": "0123456789abcdef", "git_dirty": seed == 2}
        took = {"device_seconds": {"cpu": 60.0} if seed else {}}
        finish(store, place, result(0.4 + seed / 100, 0.2, 0.3, 0.43).model_copy(update=took), *[attempt | code] * 2)
    mine, other = (SweepSpec(name=name, base=BASE, experiment=which) for name, which in
                   (("mine", "fig1"), ("other", None)))  # fmt: skip
    return [make_report([SweepRuns(sweep, part, store)], "last", DataHere(Path("nowhere")))
            for sweep, part in ((mine, places), (other, places[:1]))]  # fmt: skip


def test_a_summary_holds_what_reports_say_without_run_directories(
    reports: list[Report], store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    files = write_summary(reports, store, "rt-scale report mine.yaml", folder)
    assert files == [folder / "README.md", *sorted(files[1:], key=lambda path: (path.parent, files.index(path)))]
    assert sorted(folder.rglob("*.*")) == sorted(files)
    assert {str(path.relative_to(folder)) for path in files} == {
        "README.md", "mine/report.md", "mine/report.csv", "mine/verdicts.csv", "mine/figure-1-linear.png",
        "mine/beside.csv", "other/report.md", "other/report.csv", "other/beside.csv", "other/curves-linear.png",
    }  # fmt: skip
    for report in reports:
        name = report.sweeps[0]
        page = (folder / name / "report.md").read_text()
        assert page == (store.sweep(name).report / "report.md").read_text().split("\n## Runs behind")[0].rstrip() + "\n"
        assert "runs/distill-" not in page
    assert (folder / "mine" / "report.csv").read_bytes() == (store.sweep("mine").report / "report.csv").read_bytes()


def test_its_page_leads_to_all_and_counts(reports: list[Report], store: Store, tmp_path: Path) -> None:
    write_summary(reports, store, "rt-scale report mine.yaml", tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "\n    rt-scale report mine.yaml\n" in page
    words = [each.verdict.word for each in reports[0].verdicts]
    counts = " | ".join(str(words.count(word)) for word in ("holds", "fails", "undecided"))
    title = "[Student, teacher and input (figure 1, tables 1 and 3)](mine/report.md)"
    assert f"| {title} | 3 of 4 | 2.0 core-minutes (not measured of 1) | {counts} |" in page
    assert "| [other](other/report.md) | 1 of 1 | (not measured of 1) | - | - | - |" in page
    assert f"## {title}" in page
    assert "## [other]" not in page
    assert "| holds | The student ends above its random teacher. |" in page


def test_machines_are_told_with_versions_and_commit(reports: list[Report], store: Store) -> None:
    told = "Abacus 5, torch 9.0, rt-scale commit 0123456789"
    assert machines(reports, store) == [f"2 runs on {told}", f"1 run on {told} (changed)"]


def test_a_kept_figure_is_smaller_and_looks_the_same(reports: list[Report], store: Store, tmp_path: Path) -> None:
    write_summary(reports, store, "", tmp_path)
    small = tmp_path / "other" / "curves-linear.png"
    drawn = store.sweep("other").report / "curves-linear.png"
    assert small.stat().st_size < 0.7 * drawn.stat().st_size
    with Image.open(small) as kept, Image.open(drawn) as whole:
        assert kept.size == whole.size
        apart = ImageChops.difference(kept.convert("RGB"), whole.convert("RGB"))
    assert max(ImageStat.Stat(apart).mean) < 0.25
    assert max(high for _, high in apart.getextrema()) < 96
