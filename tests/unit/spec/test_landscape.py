"""Specs of planes: what files may write, what is refused, and what planes are made of others."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from rt_scale.analyses.measures import NAMES
from rt_scale.analyses.plane import axis
from rt_scale.spec.document import build_run, resolve_same, set_dotted
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.landscape import LandscapeSpec, Measure
from rt_scale.spec.grid import refuse_large_runs
from rt_scale.spec.part import data_name
from rt_scale.spec.run import RunSpec, all_runs
from rt_scale.spec.sweep import parse_sweep
from tests.unit.spec.sweep_files import hashes, runs

RUN: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_1"}, "student": {"alpha": 0.5}}
PLANE: dict[str, Any] = {
    "kind": "landscape",
    "origin": {"run": RUN, "take": "teacher"},
    "x": {"run": "same"},
    "y": {"run": {"same_but": {"student": {"alpha": 1}}}},
}


def plane(changes: dict[str, Any] | None = None) -> LandscapeSpec:
    document = PLANE
    for key, value in (changes or {}).items():
        document = set_dotted(document, key, value)
    spec = build_run(resolve_same(document), "plane.yaml")
    assert isinstance(spec, LandscapeSpec)
    return spec


def test_it_uses_encoder_and_images_of_plugins_but_no_objective() -> None:
    source = "0" * 64
    own = {
        "origin.run.encoder": {"name": "own:Net", "source": source},
        "origin.run.data": {"name": data_name("own:photos", None, source), "reader": "own:photos", "source": source},
        "origin.run.objective": {"name": "own:loss", "source": source},
    }
    spec = plane(own)
    assert spec.plugins == {"own:Net": source, "own:photos": source}
    assert spec.readers == (spec.origin.run.data,)
    assert (plane().plugins, plane().readers) == ({}, ())


def test_same_is_the_run_of_origin() -> None:
    spec = plane()
    assert spec.x.run == spec.origin.run == RunSpec.model_validate(RUN)
    assert spec.y.run == RunSpec.model_validate({**RUN, "student": {"alpha": 1.0}})
    assert spec.coarse is not None
    assert spec.dependencies == (spec.x.run, spec.y.run, spec.coarse)  # the teacher is drawn
    assert spec.coarse.points == (26, 26)
    assert spec.coarse.dependencies == (spec.x.run, spec.y.run)
    assert RunSpec.model_validate(spec.canonical()) == spec


def test_seeds_of_a_sweep_reach_its_networks() -> None:
    spec = RunSpec.model_validate(resolve_same({**PLANE, "y": {"run": {"same_but": {"seeds": {"student": 9}}}}}, 3))
    assert isinstance(spec, LandscapeSpec)
    assert spec.seeds.probe == spec.origin.run.seeds.teacher == spec.x.run.seeds.data == spec.y.run.seeds.data == 3
    assert spec.y.run.seeds.student == 9


def test_axes_reach_into_its_networks() -> None:
    text = """
name: planes
base:
  kind: landscape
  origin: {take: teacher, run: {data: {name: digits}, encoder: {name: convnet_4_1}}}
  y: {run: {same_but: {student: {alpha: 1}}}}
zip:
- x.run: [same, {same_but: {student: {alpha: 1}}}]
  x.take: [student, init]
axes:
  origin.run.train.epochs: [1, 2]
seeds: 2
"""
    from rt_scale.spec.grid import expand

    points = expand(parse_sweep(text, "planes.yaml"))
    assert len(points) == 8
    for point in points:
        spec = point.spec
        assert isinstance(spec, LandscapeSpec)
        assert spec.x.run.train.epochs == spec.origin.run.train.epochs == spec.y.run.train.epochs
        assert spec.x.run.student.alpha == (1 if spec.x.take == "init" else 1e-10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x.run": "sme"}, "x.run must be 'same'"),
        ({"x.run": {"same_but": {"student": {"alhpa": 1}}}}, "alhpa.*alpha"),
        ({"y.run": {"same_but": {"encoder": {"width": 2.0}}}}, r"y.run has the encoder .*2.0.*one architecture"),
        ({"x.run": {"same_but": {"projector": {"out_dim": 9}}}}, r"x.run has the projector .*out_dim: 9.*architecture"),
        ({"x.take": "teacher"}, "same network"),
        ({"y.run": "same"}, "same network"),
        ({"points": [1, 5]}, "points.0.*2"),
        ({"points": [5]}, "points"),
        ({"window": [[1, 0], [0, 1]]}, "along x from 1 to 0.*ascending"),
        ({"window": [[0, 1], [0.5, 0.5]]}, "along y from 0.5"),
        ({"window": [[0, 1], [1, 1.0000000001]]}, "along y.*closer"),
        ({"window": [[-1e308, 1e308], [0, 1]], "points": [3, 3]}, "along x"),
        ({"window": {"around": [0, 0]}}, "crop"),
        ({"window": {"around": [0, "a"], "by": 1}}, "crop"),
        ({"measures": []}, "at least one measure"),
        ({"measures": ["kl_train", "kl_train"]}, "each once"),
        ({"measures": ["kl"]}, "kl_train"),
        ({"share": 0}, "share 0"),
        ({"split": 2, "share": 2}, "share 2"),
        ({"images": 0}, "images"),
    ],
)
def test_what_is_no_plane_is_refused_in_words(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        plane(changes)


def test_a_crop_is_its_window() -> None:
    crop = plane({"window": {"around": [0.5, 0], "by": 0.25}})
    assert crop.window == ((0.25, 0.75), (-0.25, 0.25))
    assert crop.hash == plane({"window": [[0.25, 0.75], [-0.25, 0.25]]}).hash


def test_measures_are_those_that_there_are_in_any_order() -> None:
    assert get_args(Measure) == NAMES
    one, other = plane({"measures": ["knn", "kl_test"]}), plane({"measures": ["kl_test", "knn"]})
    assert one.hash == other.hash
    assert one.measures == ("kl_test", "knn")
    assert one.probed == ("knn",)


def test_without_batch_norms_their_statistics_are_no_choice() -> None:
    assert plane({"statistics": "batch"}).hash == plane().hash
    with_norms = {"origin.run.encoder.norm": "batch"}
    assert plane({**with_norms, "statistics": "batch"}).hash != plane(with_norms).hash


def test_what_a_plane_is_made_of() -> None:
    spec = plane({"points": [41, 81], "split": 2})
    names = [run.title.partition(" through")[0] + (f" share {run.share}" if run.share is not None else "")
             for run in all_runs([spec]) if isinstance(run, LandscapeSpec)]  # fmt: skip
    assert names == [
        *(f"plane of 11 x 21{share}" for share in (" share 0", " share 1", "")),
        *(f"plane of 21 x 41{share}" for share in (" share 0", " share 1", "")),
        *(f"plane of 41 x 81{share}" for share in (" share 0", " share 1", "")),
    ]
    assert spec.coarse == plane({"points": [21, 41], "split": 2})
    assert plane({"points": [21, 20]}).coarse is None
    assert plane({"points": [19, 21]}).coarse is None


def test_its_shape_is_that_of_all_planes_whose_points_cost_the_same() -> None:
    spec = plane()
    alike = plane({"window": [[0, 1], [0, 1]], "points": [9, 9], "x.run": {"same_but": {"student": {"alpha": 0.3}}}})
    assert alike.shape == spec.shape
    assert plane({"images": 100}).shape != spec.shape


def test_4_million_points_need_a_confirmation() -> None:
    refuse_large_runs([plane({"points": [301, 301]})])
    with pytest.raises(InputError, match=r"2,001 x 2,001 = 4,004,001 points.*Nothing was started.*--yes"):
        refuse_large_runs([plane(), plane({"points": [2001, 2001]})])
    with pytest.raises(InputError, match="pass yes"):
        refuse_large_runs([plane({"points": [2001, 2001]})], "pass yes=True")


@pytest.mark.parametrize("folder", ["paper", "small"])
def test_figure_5_has_both_views_and_figure_14_a_crop(folder: str) -> None:
    views = [spec for spec in runs(folder, "fig5") if isinstance(spec, LandscapeSpec)]
    assert len(views) == 6
    for spec in views:
        assert (spec.origin.take, spec.y.take, spec.y.run.student.alpha) == ("teacher", "student", 1)
        assert spec.x.run == (spec.y.run if spec.x.take == "init" else spec.origin.run)
        for low, high in spec.window:
            grid = axis(low, high, spec.points[0]).tolist()
            assert {0.0, 1.0} <= set(grid), "the networks are on points of the grid"
    assert {spec.x.take for spec in views} == {"init", "student"}
    for spec in runs(folder, "fig14"):
        assert isinstance(spec, LandscapeSpec)
        (shared,) = (view for view in views if view.x == spec.x and view.y == spec.y)
        assert shared.origin == spec.origin
        assert spec.window != shared.window
        assert 0.0 in axis(*spec.window[1], spec.points[1]).tolist()


def test_the_papers_planes_go_through_the_networks_of_figure_3() -> None:
    for spec in runs("paper", "fig5"):
        assert isinstance(spec, LandscapeSpec)
        assert (spec.points, spec.images, spec.probe_images) == ((51, 51), None, None)
        assert {run.hash for run in spec.dependencies if not isinstance(run, LandscapeSpec)} <= hashes("paper", "fig3")
