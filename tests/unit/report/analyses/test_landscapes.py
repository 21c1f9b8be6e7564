"""Landscapes in a report, from planes as such a run writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rt_scale.experiments.other_data import DataHere
from rt_scale.report.analyses.base import Analysis, Asked
from rt_scale.report.analyses.landscapes import FIGURES, analysis, landscape_runs, network_symbol, network_words
from rt_scale.report.analyses.surfaces import export_planes
from rt_scale.report.report import make_report
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.landscape import LandscapeSpec
from rt_scale.spec.grid import expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from tests.records import run_result
from tests.unit.report.analyses.planes import npz, plane_arrays

RUN = {"kind": "distill", "data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
FAR = {**RUN, "student": {"alpha": 1.0}}
FILE: dict[str, Any] = {
    "name": "planes",
    "experiment": "fig5",
    "base": {
        "kind": "landscape", "points": [9, 7], "images": 200, "origin": {"run": RUN, "take": "teacher"},
        "x": {"run": RUN, "take": "student"}, "y": {"run": FAR, "take": "student"},
    },
    "zip": [{"x.take": ["student", "init"], "x.run.student.alpha": [1e-10, 1.0]}],
    "seeds": 2,
}  # fmt: skip
SWEEP = SweepSpec.model_validate(FILE)
POINTS = expand(SWEEP)


def begun(folder: Path) -> Store:
    """The first plane is finished, the second partly computed, the others not begun."""
    found = Store(folder / "store")
    for point, known in zip(POINTS[:2], (1.0, 0.4), strict=True):
        run = found.run(point.spec)
        with run.acquire():
            run.write_spec(point.spec)
            run.save_artifact("plane.npz", npz(plane_arrays(width=9, height=7, known=known)))
            if known == 1:
                run.complete(run_result({"x/kl_train": 1e-5, "y/kl_train": 2e-5}))
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return begun(tmp_path)


def asked(store: Store, folder: Path) -> Asked:
    states = {point.spec.name: store.status(point.spec.name).state for point in POINTS}
    results = {point.spec.name: found for point in POINTS if (found := store.run(point.spec).result()) is not None}
    return Asked(POINTS, results, states, store, folder / "report", "last", "fig5")


def test_networks_are_named_as_in_the_paper() -> None:
    spec = POINTS[1].spec
    assert isinstance(spec, LandscapeSpec)
    networks = (spec.origin, spec.x, spec.y)
    assert [network_words(each) for each in networks] == ["teacher", "start, alpha 1", "student, alpha 1"]
    assert [network_symbol(each) for each in networks] == [r"$\theta_T$", r"$\theta_S(1)$", r"$\theta_S^*(1)$"]


def test_views_are_named_as_in_the_paper_and_states_told(store: Store, tmp_path: Path) -> None:
    runs = landscape_runs(asked(store, tmp_path))
    assert [run.at["view"] for run in runs] == ["shared view", "non-local view"] * 2
    assert [run.found is None for run in runs] == [False, False, True, True]
    assert runs[0].at.keys() == {"analysis", "data", "probed", "view"}
    plane = runs[0].found.plane if runs[0].found is not None else None
    assert plane is not None
    assert plane.at("kl_train", 2) == 2e-5  # as the run measured it, not between points


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """What a report shows of the planes of figure 5."""
    folder = tmp_path_factory.mktemp("drawn")
    return analysis(asked(begun(folder), folder))


def test_every_figure_is_drawn(drawn: Analysis) -> None:
    found = drawn
    assert [picture.name for picture in found.pictures] == ["figure-5", "figure-13", "figure-15"]
    assert list(FIGURES["fig14"]) == ["figure-14", "figure-16"]
    assert set(FIGURES) == {"fig5", "fig14", None}
    for picture in found.pictures:
        text = picture.svg.read_text()
        assert all(word in text for word in ("shared view", "non-local view", "of 63 points", "linear probe"))
        assert ("KL of embeddings" in text) == ("encoder" in picture.title)
        with Image.open(picture.png) as image:
            assert len(image.getcolors(2**24) or ()) > 100
    for view in found.views:
        assert [path.suffix for path in view.files] == [".vtp", ".npz"]
        assert all(path.exists() for path in view.files)
    done = int(sum(plane.found.plane.computed.sum() for plane in found.runs if plane.found is not None))
    said = " ".join(found.said)
    assert all(
        words in said for words in ("2 planes", f"{done} of 126 points", "200 images", "interpolated", "nearest")
    )


def test_a_table_says_what_lies_between(drawn: Analysis) -> None:
    (table,) = drawn.tables
    rows = [dict(zip(table.rows[0], row, strict=True)) for row in table.rows[1:]]
    assert [(row["plane"], row["to"]) for row in rows] == [
        ("shared view", "student, alpha 0"), ("shared view", "student, alpha 1"), ("non-local view", "student, alpha 1")
    ]  # fmt: skip
    assert rows[0]["KL there"] == "1e-05"
    assert float(rows[0]["highest / there"]) > 1.5
    assert 20 < float(rows[0]["linear, origin"]) < 25


def test_a_page_of_planes_is_drawn_before_any_is_finished(store: Store, tmp_path: Path) -> None:
    sweep = SweepRuns(SWEEP, POINTS[1:], store)
    report = make_report([sweep], "last", DataHere(tmp_path / "data"))
    assert report.finished == "0 of 3"
    page = (report.folder / "report.html").read_text()
    (view,) = report.analyses[0].views
    assert page.count('<details class="view"') == 1
    assert f'id="{view.name}"' in page
    assert "script-src &#39;sha256-" in page or "script-src 'sha256-" in page
    assert "http-equiv" in page
    assert {judged.verdict.word for judged in report.verdicts} == {"undecided"}
    assert all(path.exists() for path in report.files)


def test_planes_are_exported_by_the_names_of_their_runs(store: Store, tmp_path: Path) -> None:
    written = export_planes([SweepRuns(SWEEP, POINTS, store)], tmp_path / "out")
    names = [point.spec.name for point in POINTS[:2]]
    assert [path.name for path in written] == [f"{name}.{form}" for name in names for form in ("vtp", "npz")]
    assert all(path.exists() for path in written)
    with pytest.raises(InputError, match="None of these runs"):
        export_planes([SweepRuns(SWEEP, POINTS[2:], store)], tmp_path / "out")
