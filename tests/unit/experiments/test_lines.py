"""Landscapes besides planes through three networks: lines, random directions, and paths of networks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rt_scale.data.prepare import Prepared
from rt_scale.data.prepared import KnownData
from rt_scale.experiments.dependencies import weights_of
from rt_scale.experiments.landscape import Landscape
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.document import build_run, resolve_same
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.landscape import LandscapeSpec
from rt_scale.spec.experiments.network import NetworkOf
from rt_scale.spec.stopping import Stopped
from rt_scale.store.store import Store
from tests.unit.experiments.conftest import TINY
from tests.unit.experiments.test_landscape import Make, equal, landscape, stop_after

RUN: dict[str, Any] = {**TINY, "train": {**TINY["train"], "epochs": 3}}
LINE: dict[str, Any] = {
    "kind": "landscape",
    "origin": {"run": RUN, "take": "teacher"},
    "x": {"run": "same"},
    "points": [9],
    "measures": ["kl_train", "kl_test", "linear"],
}
PATH = {"run": "same", "vary": "train.stop", "values": ["1ep", "2ep", "3ep"]}


def line(**changes: Any) -> LandscapeSpec:
    fields = {**LINE, **changes}
    spec = build_run(resolve_same({name: value for name, value in fields.items() if value is not None}), "line.yaml")
    assert isinstance(spec, LandscapeSpec)
    return spec


def arrays(spec: LandscapeSpec, options: Options) -> dict[str, np.ndarray]:
    with np.load(options.store.run(spec).artifacts / f"{'line' if len(spec.points) == 1 else 'plane'}.npz") as found:
        return dict(found)


def test_points_of_a_line_are_the_row_of_a_plane(settings: Make) -> None:
    options, window = settings(), [-0.5, 1.5]
    spec = line(window=[window])
    result = run(spec, options)
    fields = {"origin.run": RUN, "points": [9, 2], "window": [window, [0, 1]], "measures": LINE["measures"]}
    plane = landscape(fields)
    run(plane, options)
    found, row = arrays(spec, options), arrays(plane, options)
    for name in ("x", "norm", "norm_encoder"):
        assert found[name] == pytest.approx(row[name][0] if row[name].ndim > 1 else row[name])
    for name in ("kl_train", "kl_test"):
        assert found[name].shape == (9,)
        assert (found[name] == row[name][0]).all()
    assert found["kl_test"][2] == 0 == result.last["origin/kl_test"]
    assert found["kl_test"][6] == result.last["x/kl_test"] > 0
    assert (found["gram"] == row["gram"][:2, :2]).all()
    assert found["corners"].tolist() == [[0], [1]]
    assert "y" not in found
    assert "y/kl_test" not in result.last
    assert (result.steps, spec.window) == (9, (tuple(window),))


def test_random_directions(settings: Make) -> None:
    """Their point (1, 0) is a network whose filters are as far from origin's as origin's are long."""
    options = settings()
    spec = line(x=None, directions="random", points=[5, 3], seeds={"student": 4})
    result = run(spec, options)
    found = arrays(spec, options)
    assert spec.window == ((-1, 1), (-1, 1))
    assert found["kl_test"].shape == (3, 5)
    assert found["kl_test"][1, 2] == 0
    assert (np.delete(found["kl_test"].ravel(), 7) > 0).all()
    assert result.last["x/kl_test"] == found["kl_test"][1, 4] != result.last["y/kl_test"] == found["kl_test"][2, 2]
    # Biases are 0 at the start, and there are no norms: all of origin is in filters.
    assert np.diag(found["gram"]) == pytest.approx(found["gram"][0, 0], rel=1e-5)
    flat = line(x=None, directions="random", points=[5], seeds={"student": 4})
    run(flat, options)
    assert (arrays(flat, options)["kl_test"] == found["kl_test"][1]).all()
    other = line(x=None, directions="random", points=[5], seeds={"student": 5})
    run(other, options)
    assert (arrays(other, options)["kl_test"] != found["kl_test"][1]).sum() == 4
    assert spec.dependencies == ()


def test_a_path_along_a_run(settings: Make) -> None:
    options = settings()
    spec = line(path=PATH)
    run(spec, options)
    found = arrays(spec, options)
    assert [each.run.train.stop for each in spec.path] == ["1ep", "2ep", None]
    assert found["path_at"].shape == (3, 1)
    # The line ends at the last network of the path.
    assert found["path_at"][2] == pytest.approx(1)
    assert found["path_off"][2] == pytest.approx(0, abs=1e-4)
    assert (found["path_off"][:2] > 0.001).all()
    assert (np.diff(found["path_length"]) > 0).all()
    x = np.flatnonzero(found["x"] == 1)
    assert found["path_kl_test"][2] == pytest.approx(found["kl_test"][x[0]])
    assert found["path_kl_test"].shape == found["path_linear"].shape == (3,)
    vectors = [
        torch.cat(
            [value.flatten() for name, value in weights_of(each, options.store, None).items() if "running" not in name]
        )
        for each in spec.path
    ]
    assert np.diff(found["path_length"]) == pytest.approx(
        [float((b - a).norm()) for a, b in itertools.pairwise(vectors)], rel=1e-4
    )


def test_the_plane_of_a_path(settings: Make, tmp_path: Path) -> None:
    """Its principal components, which reach to the networks, stopped and gone on with."""
    options = settings()
    spec = line(x=None, directions="pca", path=PATH, origin={"run": RUN, "take": "init"}, points=[5, 5])
    for each in spec.dependencies:
        run(each, options)
    with pytest.raises(Stopped):
        run(spec, settings(stop=stop_after(2)))
    run(spec, options)
    found = arrays(spec, options)
    assert np.abs(found["path_at"]).max(0) == pytest.approx([1, 1])
    assert found["path_at"].max(0) == pytest.approx([1, 1])
    assert found["gram"][1, 2] == pytest.approx(0, abs=1e-5 * found["gram"][1, 1])
    assert found["gram"][1, 1] > found["gram"][2, 2]
    again = settings(store=Store(tmp_path / "again"))
    run(spec, again)
    assert equal(arrays(spec, again), found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": None}, ["x is not given", "random or pca"]),
        ({"points": [9, 9]}, ["y is not given", "line"]),
        ({"y": {"run": {"same_but": {"student": {"alpha": 1}}}}}, ["y is given", "plane"]),
        ({"window": [[0, 1], [0, 1]]}, ["points has 1", "window 2"]),
        ({"points": [9, 9, 9]}, ["points has 3"]),
        ({"directions": "random"}, ["leave them out", "random"]),
        ({"directions": "rndom", "x": None}, ["'rndom' is not known", "'random'"]),
        ({"directions": "pca", "x": None, "points": [5, 5], "path": [{"run": "same"}]}, ["path has 1 network", "vary"]),
        ({"x": {"run": "same", "take": "teacher"}}, ["same network"]),
        ({"path": [{"run": {"same_but": {"encoder": {"name": "convnet_4_2"}}}}]}, ["path 0", "encoder"]),
        ({"path": {**PATH, "vary": "train.stp"}}, ["path", "train.stp", "'train.stop'"]),
    ],
)  # fmt: skip
def test_what_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        line(**changes)
    assert all(word in str(refused.value) for word in words), refused.value


def test_a_path_that_stands_still_is_refused(settings: Make) -> None:
    spec = line(x=None, directions="pca", path=[{"run": "same", "take": "init"}, {"run": "same"}], points=[5, 5],
                origin={"run": RUN, "take": "init"})  # fmt: skip
    with pytest.raises(InputError, match="span 1 dimension"):
        run(spec, settings())


def test_networks_of_a_spec() -> None:
    spec = line(path=PATH)
    assert list(spec.networks) == ["origin", "x", "path 0", "path 1", "path 2"]
    assert all(isinstance(each, NetworkOf) for each in spec.networks.values())
    assert "line of 9 through teacher and student" in spec.title
    assert spec.large == ""
    assert line(points=[100_001]).large.startswith("a line of 100,001 points")
    (fine,) = line(points=[41]).dependencies[1:]
    assert isinstance(fine, LandscapeSpec)
    assert fine.points == (21,)


def test_a_path_costs_a_pass_a_network(digits: Prepared) -> None:
    known = KnownData({"digits": digits.info})
    works = [Landscape().cost(each, known).work for each in (line(), line(path=PATH))]
    (alone, step), (with_path, same) = ((found.start.shared.network, found.step.shared.network)
                                        for found in (work() for work in works if work is not None))  # fmt: skip
    assert step == same
    assert alone == pytest.approx(3 * step)
    assert with_path == pytest.approx(6 * step)
