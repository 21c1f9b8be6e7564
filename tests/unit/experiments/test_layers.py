"""Statistics of layers in a run: at every probing, the same after a break, without a trace in the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.experiments.base import check_all
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store
from tests.unit.experiments.conftest import curves

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
LAYERS = {"probe.layers": {"images": 20}, "encoder.norm": "batch"}
EMA = {"teacher": {"update": "ema", "momentum": 0.5, "statistics": "student"}}


@pytest.mark.parametrize("changes", [{}, EMA, {"kind": "supervise", "projector.out_dim": 10}])
def test_every_probing_has_them_and_the_training_does_not_notice(
    changes: dict[str, object], tiny: Tiny, settings: Make, tmp_path: Path
) -> None:
    given = settings(store=Store(tmp_path / "store"))
    spec, without = tiny({**LAYERS, **changes}), tiny({"encoder.norm": "batch", **changes})
    run(spec, given)
    run(without, given)
    found, plain = curves(given.store, spec), curves(given.store, without)
    names = {name for name in found if name.startswith("layers/")}
    assert names == {name for name in spec.logged if name.startswith("layers/")}
    assert all([step for step, _ in found[name]] == [0, 2, 4] for name in names)
    assert {name: values for name, values in found.items() if name not in names} == plain
    moves = {name for name in names if len({value for _, value in found[name]}) > 1}
    assert {name.split("/")[1] for name in moves} == ({"student", "teacher"} if changes == EMA else {"student"})


@pytest.mark.parametrize("changes", [{}, EMA])
def test_a_resumed_run_has_the_same(changes: dict[str, object], tiny: Tiny, resumed_and_whole: Any) -> None:
    resumed_and_whole(tiny({**LAYERS, **changes}))


def test_a_student_that_equals_its_teacher_has_its_numbers(tiny: Tiny, settings: Make) -> None:
    spec = tiny({**LAYERS, "student.alpha": 0.0, "train.stop": "0ep"})
    last = run(spec, settings()).last
    students = {name: value for name, value in last.items() if name.startswith("layers/student/")}
    assert students
    assert all(last[name.replace("student", "teacher")] == value for name, value in students.items())


@pytest.mark.parametrize("images", [9, 361])
def test_other_numbers_of_images_are_refused(images: int, tiny: Tiny, data_dir: Path) -> None:
    with pytest.raises(InputError, match=rf"layers.images is {images}.* 'digits' has 360 test .* from 10 to 360"):
        check_all([tiny({"probe.layers": {"images": images}})], data_dir)
