from __future__ import annotations

from typing import Any

import pytest

from rt_scale.spec.data import DataSpec
from rt_scale.spec.document import build_run
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec

NOISE: dict[str, Any] = {
    "data": {"name": "gaussian", "size": 8, "samples": 100},
    "encoder": {"name": "convnet_4_1"},
    "probe": {"also": ["digits"]},
}


def spec(**changes: Any) -> RunSpec:
    return build_run({**NOISE, **changes}, "spec.yaml")


def test_what_gaussian_inputs_leave_out_is_said() -> None:
    data = spec().data
    assert (data.sigma, data.channels) == (1.0, 3)
    assert spec(data={**NOISE["data"], "sigma": 1, "channels": 3}).name == spec().name
    for change in ({"sigma": 2}, {"channels": 1}, {"size": 16}, {"samples": 50}):
        assert spec(data={**NOISE["data"], **change}).name != spec().name
    assert RunSpec.model_validate(spec().canonical()) == spec()


def test_other_data_sets_have_neither() -> None:
    assert set(RunSpec.model_validate({**NOISE, "data": {"name": "digits"}}).canonical()["data"]) == {
        "name",
        "size",
        "samples",
    }
    assert DataSpec(name="digits").sigma is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"name": "gaussian", "samples": 5}}, ["size must be given"]),
        ({"data": {"name": "gaussian"}}, ["size and samples must be given"]),
        ({"data": {"name": "digits", "sigma": 1}}, ["sigma belong to data.name: gaussian", "'digits'"]),
        ({"data": {"name": "digits", "channels": 1}}, ["channels belong"]),
        ({"data": {**NOISE["data"], "sigma": 0}}, ["data.sigma", "greater than 0"]),
        ({"data": {**NOISE["data"], "channels": 2}}, ["data.channels"]),
        ({"data": {"name": "digits"}, "probe": {"also": ["stl10", "gaussian"]}}, ["probe.also names gaussian"]),
        ({"probe": {}}, ["no labels to probe on", "probe.also"]),
        ({"probe": {"also": ["digits"], "statistics": True}}, ["probe.statistics"]),
        ({"kind": "supervise"}, ["have none"]),
        (
            {"augment": {"kind": "multicrop", "global_size": 8, "local_size": 4}, "objective": {"pairing": "all"}},
            ["augment.kind", "crop_flip"],
        ),
    ],
)
def test_noise_that_cannot_be_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        spec(**changes)
    for word in words:
        assert word in str(caught.value)
