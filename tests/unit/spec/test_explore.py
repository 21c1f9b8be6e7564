"""Exploration in a sweep file: what it may say, and what is refused before anything starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.spec.errors import InputError
from rt_scale.spec.explore import AshaSpec, Domain, ExploreSpec, MedianSpec, StopSpec, check_length, parse_domain
from rt_scale.spec.grid import corner_points, expand, points_at
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec, load_sweep

BASE: dict[str, Any] = {
    "data": {"name": "digits"},
    "encoder": {"name": "convnet_8_2"},
    "train": {"epochs": 40},
    "probe": {"every": "5ep"},
}
ASHA = {"asha": {"grace": "5ep", "reduction": 3}}
SPACE = {"student.alpha": {"loguniform": [1e-10, 1]}, "projector.out_dim": {"pow2": [0, 16]}}
SEARCH = {"search": {"optuna": {"runs": 7}}, "space": SPACE}
METRIC = {"metric": "probe/student/linear", "mode": "max"}


def load(folder: Path, explore: dict[str, Any], **fields: Any) -> SweepSpec:
    """The sweep as from a user's file."""
    path = folder / "s.yaml"
    path.write_text(
        yaml.safe_dump({"name": "s", "base": BASE, "explore": {**METRIC, **explore}, **fields}, sort_keys=False)
    )
    return load_sweep(path)[0]


def test_a_grid_with_early_stopping_is_the_same_grid(tmp_path: Path) -> None:
    axes = {"student.alpha": [0.1, 0.5], "projector.out_dim": [4, 8]}
    sweep = load(tmp_path, {"stop": ASHA}, axes=axes, seeds=2)
    plain = SweepSpec.model_validate({"name": "s", "base": BASE, "axes": axes, "seeds": 2})
    assert expand(sweep) == corner_points(sweep) == expand(plain)
    assert sweep.explore is not None
    assert sweep.explore.stop == StopSpec(asha=AshaSpec(grace="5ep", reduction=3))


def test_a_search_has_no_runs_before_it_samples_them(tmp_path: Path) -> None:
    sweep = load(tmp_path, SEARCH, seeds=[3])
    assert expand(sweep) == []
    assert len(corner_points(sweep)) == 3 * 2
    (point,) = points_at(sweep, [{"student.alpha": 0.25, "projector.out_dim": 64}])
    assert (point.spec.student.alpha, point.spec.projector.out_dim, point.spec.seeds.data) == (0.25, 64, 3)
    assert point.label == "alpha=0.25,out_dim=64,seed=3"


@pytest.mark.parametrize(
    ("stop", "name", "grace", "unit"),
    [
        (StopSpec(asha=AshaSpec(grace="10ep")), "asha", "10ep", "ep"),
        (StopSpec(median=MedianSpec(grace="500it")), "median", "500it", "it"),
    ],
)
def test_rules_tell_what_they_are(stop: StopSpec, name: str, grace: str, unit: str) -> None:
    assert (stop.name, stop.grace, stop.unit) == (name, grace, unit)


@pytest.mark.parametrize(
    ("given", "domain", "corners", "listed"),
    [
        ([None, "batch"], ("choice", (None, "batch")), [None, "batch"], [None, "batch"]),
        ([[8, 8], [16]], ("choice", ([8, 8], [16])), [[8, 8], [16]], [[8, 8], [16]]),
        ({"pow2": [0, 4]}, ("pow2", (0, 4)), [1, 16], [1, 2, 4, 8, 16]),
        ({"pow2": [3, 3]}, ("pow2", (3, 3)), [8], [8]),
        ({"uniform": [-1, 3]}, ("uniform", (-1.0, 3.0)), [-1, pytest.approx(0.528, abs=1e-3), 3], None),
        ({"loguniform": [1e-4, 1]}, ("loguniform", (1e-4, 1.0)), [1e-4, pytest.approx(0.382, abs=1e-3), 1], None),
    ],
)
def test_domains(given: Any, domain: Any, corners: list[Any], listed: list[Any] | None) -> None:
    found = parse_domain("x", given)
    assert found == Domain(*domain)
    assert found.corners == corners
    assert found.listed == listed
    assert found.size == (math.inf if listed is None else len(listed))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "at least one value"),
        ([1, 1], "each once"),
        ({}, "one of uniform, loguniform, pow2"),
        ({"pow2": [0, 1], "uniform": [0, 1]}, "one of uniform, loguniform, pow2"),
        ({"logunifrom": [0.1, 1]}, "Did you mean 'loguniform'?"),
        ({"loguniform": [0, 1]}, "0 < from < to"),
        ({"uniform": [1, 1]}, "from < to"),
        ({"uniform": [0, float("inf")]}, "from < to"),
        ({"uniform": ["a", 1]}, "[from, to]"),
        ({"uniform": [0, True]}, "[from, to]"),
        ({"uniform": [0, 1, 2]}, "[from, to]"),
        ({"pow2": [0.5, 1]}, "whole exponents"),
        ({"pow2": [3, 1]}, "whole exponents"),
        ({"pow2": [0, 63]}, "whole exponents"),
    ],
)
def test_bad_domains_are_refused(given: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_domain("x", given)
    assert words in str(caught.value)
    assert str(caught.value).startswith(("x needs", "Unknown kind of range of x"))


@pytest.mark.parametrize(
    ("explore", "fields", "words"),
    [
        ({}, {}, "give stop, search or both"),
        ({"stop": {}}, {}, "give one of asha"),
        ({"stop": {**ASHA, "median": {"grace": "5ep"}}}, {}, "give one of asha"),
        ({"stop": {"asah": {"grace": "5ep"}}}, {}, "did you mean 'asha'?"),
        ({"stop": {"asha": {}}}, {}, "explore.stop.asha.grace: required"),
        ({"stop": {"asha": {"grace": "5"}}}, {}, "'5' is not a duration"),
        ({"stop": {"asha": {"grace": "5ep", "reduction": 1}}}, {}, "greater than 1"),
        ({"stop": {"median": {"grace": "5ep", "min_runs": 0}}}, {}, "greater than or equal to 1"),
        ({"mode": "maximum", "stop": ASHA}, {}, "did you mean 'max'?"),
        ({"metric": "probe/student/liner", "stop": ASHA}, {}, "Did you mean 'probe/student/linear'?"),
        ({"metric": "probe@stl10/student/knn", "stop": ASHA}, {}, "Unknown metric in explore.metric"),
        ({"metric": "probe/teacher/linear", "stop": ASHA}, {}, "does not change while a run trains"),
        ({"stop": {"asha": {"grace": "40ep"}}}, {}, "but a run lasts 40ep"),
        ({"stop": ASHA}, {"axes": {"train.epochs": [40, 5]}}, "but a run lasts 5ep"),
        ({"stop": {"median": {"grace": "4ep"}}}, {}, "probe more often (probe.every: 4ep)"),
        ({"stop": {"asha": {"grace": "50it"}}}, {}, "both in one unit"),
        ({"stop": {"asha": {"grace": "50it"}}, "metric": "train/loss"}, {}, "write the grace in epochs"),
        ({"stop": ASHA}, {"axes": {"probe.every": ["5ep", None]}}, "only known at the end"),
        ({"stop": ASHA}, {"launch": {"workers": 2}}, "launch.workers is 2"),
        ({"stop": ASHA}, {"launch": {"pack": 2}}, "leave launch.pack at 1"),
        (SEARCH, {"launch": {"pack": "auto"}}, "cannot be packed"),
        ({"search": {"optuna": {"runs": 4}}}, {}, "search and space belong together"),
        ({"stop": ASHA, "space": SPACE}, {}, "search and space belong together"),
        ({**SEARCH, "search": {"optuna": {"runs": 0}}}, {}, "greater than or equal to 1"),
        ({**SEARCH, "search": {"optuna": {"runs": 3, "seed": -1}}}, {}, "greater than or equal to 0"),
        ({**SEARCH, "search": {"hyperopt": {"runs": 3}}}, {}, "known here: optuna"),
        ({**SEARCH, "space": {"student.alhpa": [0, 1]}}, {}, "Did you mean 'student.alpha'?"),
        ({**SEARCH, "space": {"student.alpha": {"uniform": [0, 2]}}}, {}, "less than or equal to 1"),
        ({**SEARCH, "space": {"train.epochs": {"uniform": [20, 40]}}}, {}, "whole number"),
        ({**SEARCH, "space": {**SPACE, "seeds.data": list(range(1667))}}, {}, "10002 corners"),
        (SEARCH, {"axes": {"student.alpha": [0, 1]}}, "axes and zip must be empty; given: student.alpha"),
        (SEARCH, {"axes": {"probe.knn": [0, 5]}}, "axes and zip must be empty; given: probe.knn"),
        (SEARCH, {"zip": [{"probe.knn": [0, 5]}]}, "axes and zip must be empty; given: probe.knn"),
        (SEARCH, {"seeds": 2}, "set seeds to 1"),
    ],
)
def test_what_cannot_be_explored_is_refused(
    tmp_path: Path, explore: dict[str, Any], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, explore, **fields)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("explore", "base"),
    [
        ({"metric": "train/loss", "mode": "min", "stop": {"asha": {"grace": "1ep"}}}, {}),
        ({"metric": "probe/teacher/linear", "stop": ASHA}, {"teacher": {"update": "ema", "momentum": 0.9}}),
        ({"metric": "probe@stl10/student/knn", "stop": ASHA}, {"probe": {"also": ["stl10"]}}),
        ({"stop": {"median": {"grace": "50it"}}}, {"probe": {"every": "25it"}}),
        ({"stop": {"asha": {"grace": "39ep"}}}, {}),
        ({**SEARCH}, {"probe": {"every": None}}),
        ({**SEARCH, "stop": ASHA, "space": {"encoder.norm": [None, "none"], "projector.hidden": [[8], []]}}, {}),
    ],
)
def test_what_can_is_not(tmp_path: Path, explore: dict[str, Any], base: dict[str, Any]) -> None:
    assert load(tmp_path, explore, base={**BASE, **base}).explore is not None


def test_what_is_searched_cannot_be_set(tmp_path: Path) -> None:
    load(tmp_path, SEARCH)
    with pytest.raises(InputError, match=r"student\.alpha is searched in explore\.space"):
        load_sweep(tmp_path / "s.yaml", ["student.alpha=1"])
    assert load_sweep(tmp_path / "s.yaml", ["probe.knn=3"])[0].base["probe"]["knn"] == 3


def test_a_grace_in_steps_is_compared_when_the_data_is_known() -> None:
    stop = StopSpec(asha=AshaSpec(grace="80it"))
    spec = RunSpec.model_validate(BASE)
    check_length(stop, spec, 3)
    with pytest.raises(InputError, match="grace is 80it, but a run lasts 80it"):
        check_length(stop, spec, 2)


def test_no_metric_is_logged_that_is_not_asked_for() -> None:
    kinds = {"linear": True, "knn": 0, "standardized": False}
    plain = RunSpec.model_validate({**BASE, "probe": kinds}).logged
    assert [name for name, when in plain.items() if when == "probe"] == [
        "probe/student/linear",
        "probe/teacher/linear",
        "probe/input/linear",
    ]
    noise = {"data": {"name": "gaussian", "size": 8, "samples": 9}, "probe": {**kinds, "also": ["digits"]}}
    probes = [name for name in RunSpec.model_validate({**BASE, **noise}).logged if name.startswith("probe")]
    assert [name.partition("/")[0] for name in probes] == ["probe@digits"] * 3


def test_exploration_is_no_part_of_a_run() -> None:
    axes = {"student.alpha": [0.5]}
    explored = SweepSpec(name="s", base=BASE, axes=axes, explore=ExploreSpec.model_validate({**METRIC, "stop": ASHA}))
    assert [p.spec.hash for p in expand(explored)] == [
        p.spec.hash for p in expand(SweepSpec(name="s", base=BASE, axes=axes))
    ]
