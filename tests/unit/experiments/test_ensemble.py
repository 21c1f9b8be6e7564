"""A student of the mean of several random teachers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rt_scale.data.catalogue import DATASETS
from rt_scale.experiments.batched import Bench, run_batched
from rt_scale.experiments.flops import count_run
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.models.networks import build_network, build_others, build_pair
from rt_scale.spec.document import build_run
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec, stream
from rt_scale.store.store import Store
from tests.unit.experiments.conftest import curves
from tests.unit.spec.test_consistency import SMALL

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
SEVERAL = {"teacher.count": 3, "encoder.norm": "batch"}


def test_one_is_no_other_number(tiny: Tiny) -> None:
    assert tiny({"teacher.count": 1}).name == tiny().name != tiny({"teacher.count": 2}).name
    assert ", 3 teachers, " in tiny(SEVERAL).title


def test_the_first_is_the_only_one_without_count_and_the_others_are_their_own_draws(tiny: Tiny) -> None:
    one, spec = tiny({"seeds.teacher": 5}), tiny({"teacher.count": 3, "seeds.teacher": 5})
    pair, others = build_pair(spec, 1, 8), build_others(spec, 1, 8)
    assert build_others(one, 1, 8) == []
    assert len(others) == 2
    networks = [pair.teacher, *others]
    for network, keys in zip(networks, [(5,), (5, 1), (5, 2)], strict=True):
        expected = build_network(one, 1, 8, torch.Generator().manual_seed(stream("teacher", *keys)))
        for name, value in expected.state_dict().items():
            assert torch.equal(network.state_dict()[name], value)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
    for name, value in build_pair(one, 1, 8).student.state_dict().items():
        assert torch.equal(pair.student.state_dict()[name], value)


def test_probes_are_of_the_first_and_the_target_of_all(tiny: Tiny, settings: Make) -> None:
    given, one, several = settings(), tiny({"encoder.norm": "batch"}), tiny(SEVERAL)
    run(one, given)
    run(several, given)
    first, mean = curves(given.store, one), curves(given.store, several)
    teachers = {name for name in mean if "/teacher/" in name}
    assert teachers
    assert {name: mean[name] for name in teachers} == {name: first[name] for name in teachers}
    assert mean["train/teacher_entropy"] != first["train/teacher_entropy"]
    assert mean["train/teacher_entropy"][0][1] > first["train/teacher_entropy"][0][1]  # of a mean: entropy is concave


@pytest.mark.parametrize("more", [{}, {"augment": {"kind": "crop_flip", "padding": 1}}])
def test_a_resumed_run_has_the_same(more: dict[str, Any], tiny: Tiny, resumed_and_whole: Any) -> None:
    resumed_and_whole(tiny({**SEVERAL, **more}))


def test_it_trains_as_one_batch_with_others(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    specs = [tiny(SEVERAL), tiny({**SEVERAL, "teacher.count": 2})]
    together, alone = settings(store=Store(tmp_path / "together")), settings(store=Store(tmp_path / "alone"))
    for spec, result in zip(specs, run_batched(specs, [together, together]), strict=True):
        assert not isinstance(result, BaseException), result
        assert result.last["train/loss"] == pytest.approx(run(spec, alone).last["train/loss"], rel=1e-4)
    (step,) = Bench(specs[0], alone).steps(1)
    assert len(step.objective.others) == 2  # type: ignore[attr-defined]


def test_every_teacher_counts() -> None:
    def counted(**changes: Any) -> Any:
        return count_run(RunSpec.model_validate({**SMALL, **changes}), DATASETS["digits"], {})

    for augment in ({}, {"augment": {"kind": "crop_flip"}}):
        one, two, three = (counted(**augment, teacher={"count": count}) for count in (1, 2, 3))
        for part in ("start", "step"):
            first, second = (getattr(each, part).shared.network for each in (one, two))
            assert getattr(three, part).shared.network - second == pytest.approx(second - first)
        assert two.step.shared.network > one.step.shared.network
        assert (two.start.shared.network > one.start.shared.network) is not bool(augment)
        assert one.evaluation == three.evaluation


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": {"count": 0}}, "greater than or equal to 1"),
        ({"teacher": {"count": 65}}, "less than or equal to 64"),
        ({"teacher": {"count": 2, "update": "ema"}}, "random teachers that never move: leave out update"),
        ({"teacher": {"count": 2, "mode": "train", "center": 0.9}}, "leave out mode, center"),
        ({"teacher": {"count": 2, "start_from": {"run": SMALL}}}, "leave out start_from"),
        ({"objective": {"name": "mse"}}, "must be cross_entropy or kl"),
        ({"probe": {"curvature": {}}}, "probe.curvature is of the loss under one teacher"),
        ({"encoder": {"name": "vit_tiny", "init": "authors"}, "data": {"name": "cifar10"}}, "leave encoder.init out"),
        ({"kind": "supervise", "projector": {"out_dim": 10}}, "leave out teacher.count"),
    ],
)
def test_what_is_of_one_teacher_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_run({**SMALL, "teacher": {"count": 2}, **changes}, "spec.yaml")


def test_teachers_may_be_of_another_width(tiny: Tiny, settings: Make) -> None:
    spec, given = tiny({"teacher": {"count": 2, "width": 2.0}, "student.alpha": 1.0}), settings()
    assert set(run(spec, given).last) == set(spec.logged)
    assert {network.encoder.embed_dim for network in build_others(spec, 1, 8)} == {
        2 * build_pair(spec, 1, 8).student.encoder.embed_dim
    }
