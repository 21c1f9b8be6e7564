"""A run whose teacher is of another width than its student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rt_scale.data.prepared import Prepared
from rt_scale.experiments.base import check_all
from rt_scale.experiments.batched import run_batched
from rt_scale.experiments.networks import load_network
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.models.networks import build_network
from rt_scale.report.weights import write_weights
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec, stream
from rt_scale.store.store import Store
from tests.unit.experiments.conftest import curves, equal, saved

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
WIDE = {"teacher.width": 2.0, "student.alpha": 1.0, "encoder.norm": "batch"}
AS_WIDE = {"encoder.width": 2.0, "student.alpha": 1.0, "encoder.norm": "batch"}


def test_it_is_the_teacher_of_a_run_as_wide_and_is_probed_as_that(tiny: Tiny, settings: Make) -> None:
    given = settings()
    narrow, wide = tiny(WIDE), tiny(AS_WIDE)
    run(narrow, given)
    run(wide, given)
    ours, theirs = curves(given.store, narrow), curves(given.store, wide)
    assert set(ours) == set(narrow.logged)
    teachers = {name for name in ours if "/teacher/" in name}
    assert teachers
    assert {name: ours[name] for name in teachers} == {name: theirs[name] for name in teachers}
    runs = [given.store.run(spec) for spec in (narrow, wide)]
    network, other = (load_network(each, "teacher", given.data_dir) for each in runs)
    expected = build_network(wide, 1, 8, torch.Generator().manual_seed(stream("teacher", 0)))
    for name, value in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
        assert torch.equal(other.state_dict()[name], value)
    student = load_network(runs[0], "student", given.data_dir)
    assert (student.encoder.embed_dim, network.encoder.embed_dim) == (16, 32)
    assert student(torch.zeros(1, 1, 8, 8)).shape == network(torch.zeros(1, 1, 8, 8)).shape == (1, 32)


@pytest.mark.parametrize("more", [{}, {"probe.layers": {"images": 20}}, {"augment": {"kind": "crop_flip"}}])
def test_a_resumed_run_has_the_same(more: dict[str, Any], tiny: Tiny, resumed_and_whole: Any) -> None:
    spec = tiny({**WIDE, **more})
    assert equal(*(saved(store.run(spec), 0, "teacher") for store in resumed_and_whole(spec)))


def test_it_can_be_the_student_of_another_run(tiny: Tiny, settings: Make) -> None:
    given, trained = settings(), tiny(AS_WIDE)
    spec = tiny({**WIDE, "teacher.start_from": {"run": trained.canonical()}})
    run(spec, given)
    found, expected = saved(given.store.run(spec), 0, "teacher"), saved(given.store.run(trained), 4, "student")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_runs_of_teachers_of_several_widths_train_as_one_batch(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    specs = [tiny({**WIDE, "teacher.width": width}) for width in (0.5, 2.0)]
    together, alone = settings(store=Store(tmp_path / "together")), settings(store=Store(tmp_path / "alone"))
    for spec, result in zip(specs, run_batched(specs, [together, together]), strict=True):
        assert not isinstance(result, BaseException), result
        assert result.last["train/loss"] == pytest.approx(run(spec, alone).last["train/loss"], rel=1e-4)


def test_its_encoder_is_exported_as_wide_as_it_is(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    given, spec = settings(), tiny(WIDE)
    run(spec, given)
    for role, width in (("teacher", '"width": 2.0'), ("student", '"width": 1.0')):
        write_weights(given.store.run(spec), tmp_path / role, "safetensors", given.data_dir, role)  # type: ignore[arg-type]
        assert width in (tmp_path / role / "config.json").read_text()


def test_images_that_its_width_does_not_take_are_refused(tiny: Tiny, digits: Prepared, data_dir: Path) -> None:
    spec = tiny({"encoder": {"name": "resnet18", "norm": "layer"}, "teacher.width": 0.001, "student.alpha": 1.0})
    with pytest.raises(InputError, match="last feature map of 1 x 1"):
        check_all([spec], data_dir)
    check_all([tiny({**WIDE, "encoder.norm": "none"})], data_dir)
