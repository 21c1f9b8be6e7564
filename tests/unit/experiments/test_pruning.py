"""Rounds of pruning: each from the round before, with exact masks, whatever interrupts it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.base import check, unfinished
from rt_scale.experiments.batched import run_batched
from rt_scale.experiments.flops import run_length
from rt_scale.experiments.networks import load_network, load_weights
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.experiments.pruning import MOST_ROUNDS
from rt_scale.spec.run import RunSpec, all_runs
from rt_scale.spec.stopping import Stopped
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from rt_scale.training.pruning import Kept, read_mask
from tests.unit.experiments.test_stop import files, rows, state
from tests.unit.experiments.test_stops import Asked

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
BASE: dict[str, Any] = {
    "kind": "supervise", "projector": {"hidden": [], "parts": "-/lb/-/-/-/-", "out_dim": 10}, "data.samples": 100,
    "train.epochs": 3, "encoder.norm": "batch", "student": {"alpha": 1.0},
    "train.optimizer": {"name": "sgd", "lr": "multistep(0.05, 0.1, 2ep)", "momentum": 0.9, "weight_decay": 0.01,
                        "clip": 0.5},
}  # fmt: skip
"""3 epochs of 4 steps."""

STOPPED = {"same_but": {"train": {"stop": "1ep"}}}


def at(round_: int, rewind: str = "0ep", **more: Any) -> dict[str, Any]:
    return {**BASE, "prune": {"round": round_, "rewind": rewind, **more}}


def mask_of(run_dir: RunDir, step: int) -> Kept:
    folder = run_dir.path / "checkpoints" / str(step)
    return read_mask(folder / "mask.safetensors", load_file(folder / "student.safetensors"))


def weights_of(run_dir: RunDir, step: int) -> dict[str, torch.Tensor]:
    return load_file(run_dir.path / "checkpoints" / str(step) / "student.safetensors")


def left(kept: Kept) -> int:
    return sum(int(mask.sum()) for mask in kept.values())


@pytest.mark.parametrize("parameters", ["weights", "all"])
@pytest.mark.parametrize("rewind", ["0ep", "1ep", "6it"])
def test_a_chain_of_rounds(tiny: Tiny, settings: Make, rewind: str, parameters: str) -> None:
    given, plain = settings(), tiny(BASE)
    spec = tiny(at(3, rewind, parameters=parameters))
    result = run(spec, given)
    steps = {"0ep": 0, "1ep": 4, "6it": 6}[rewind]
    assert (result.steps, result.epochs) == (12, 3)
    begun = given.store.run(plain if rewind == "0ep" else tiny({**BASE, "train.stop": rewind}))
    before, total, kept = given.store.run(plain), None, None
    for number in (1, 2, 3):
        run_dir = given.store.run(tiny(at(number, rewind, parameters=parameters)))
        mask, ended = mask_of(run_dir, 12), weights_of(before, 12)
        named = dict(load_network(run_dir, "student", given.data_dir).named_parameters())
        assert set(mask) == (set(named) if parameters == "all" else {name for name in named if named[name].ndim > 1})
        total = total or sum(each.numel() for each in mask.values())
        kept = kept or total
        kept -= math.ceil(0.2 * kept)
        assert left(mask) == kept
        # What is left is what was largest, and only of what was left before.
        gone = torch.cat([ended[name][~each].abs() for name, each in mask.items()])
        stays = torch.cat([ended[name][each].abs() for name, each in mask.items()])
        assert gone.max() <= stays.min()
        if number > 1:
            assert all((mask[name] <= each).all() for name, each in mask_of(before, 12).items())
        # The start is the rewound network's, masked; the weights stay 0 to the end.
        start = weights_of(begun, 0 if rewind == "0ep" else steps)
        for name, value in weights_of(run_dir, 0).items():
            assert torch.equal(value, start[name] * mask[name] if name in mask else start[name])
        for name, each in mask.items():
            assert (weights_of(run_dir, 12)[name][~each] == 0).all()
            assert (named[name][~each] == 0).all()
        assert given.store.run(run_dir.name).result().last["sparsity/left"] == kept / total
        assert state(run_dir, 0)["step"] == steps
        before = run_dir
    share = float(mask["projector.bottleneck.weight"].double().mean())
    assert result.last["sparsity/projector.bottleneck"] == pytest.approx(share)


def test_round_0_is_the_plain_run_for_every_moment(tiny: Tiny) -> None:
    plain = tiny(BASE)
    zero = [tiny(at(0, rewind, parameters="all", fraction=0.5)) for rewind in ("0ep", "2ep")]
    assert {spec.name for spec in zero} == {plain.name}
    assert zero[0] == plain


def test_a_round_needs_the_one_before_and_the_moment_that_it_goes_back_to(tiny: Tiny) -> None:
    second, stopped = tiny(at(2, "1ep")), tiny({**BASE, "train.stop": "1ep"})
    assert {each.name for each in second.dependencies} == {tiny(at(1, "1ep")).name, stopped.name}
    assert {each.name for each in tiny(at(1, "1ep")).dependencies} == {tiny(BASE).name, stopped.name}
    assert [each.name for each in tiny(at(1)).dependencies] == [tiny(BASE).name]
    names = {tiny(at(1)).name, tiny(at(1, "1it")).name, tiny(at(1, fraction=0.5)).name, second.name}
    names |= {tiny(at(1, parameters="all")).name, tiny(at(1, scope="layer")).name}
    assert len(names) == 6
    assert tiny(at(1, "0it")).name == tiny(at(1)).name
    assert second.shape == tiny(BASE).shape


def test_the_longest_chain_is_named_and_found_quickly(tiny: Tiny, tmp_path: Path) -> None:
    last, store = tiny(at(MOST_ROUNDS, "1ep")), Store(tmp_path)
    runs = all_runs([last])
    assert len(runs) == MOST_ROUNDS + 2
    assert runs[-1] is last
    assert {each.name for each in unfinished(last, store)} == {each.name for each in runs}
    with pytest.raises(ValueError, match="less than or equal"):
        tiny(at(MOST_ROUNDS + 1))


def test_rewound_momentum_and_order_go_on_from_there(tiny: Tiny, settings: Make) -> None:
    given, spec = settings(), tiny(at(1, "6it"))
    run(spec, given)
    stopped, run_dir = given.store.run(tiny({**BASE, "train.stop": "6it"})), given.store.run(spec)
    there, here = state(stopped, 6), state(run_dir, 0)
    assert str(there["optimizer"]) == str(here["optimizer"])
    assert (here["epoch"], here["step"], here["sums"]) == (1, 6, there["sums"])
    assert min(row[0] for row in rows(run_dir, 0, 12)) == 6
    # Statistics of norms are those of that moment, too.
    statistics = {name for name in weights_of(run_dir, 0) if "running" in name}
    assert statistics
    assert all(torch.equal(weights_of(run_dir, 0)[name], weights_of(stopped, 6)[name]) for name in statistics)


def test_every_field_changes_the_numbers(tiny: Tiny, settings: Make) -> None:
    given = settings()
    changes: list[dict[str, Any]] = [
        {}, {"round_": 2}, {"rewind": "1ep"}, {"fraction": 0.5}, {"scope": "layer"}, {"parameters": "all"},
    ]  # fmt: skip
    results = [run(tiny(at(**{"round_": 1, **each})), given) for each in changes]
    assert len({result.last["train/loss"] for result in results}) == len(changes)


def test_a_ticket_starts_from_a_student_too(tiny: Tiny, settings: Make) -> None:
    given = settings()
    other = {"same_but": {"kind": "distill", "projector": {"hidden": [16], "out_dim": 32, "parts": "-/lb/fn/wn/l/-"}}}
    spec = tiny({**at(1), "student": {"start_from": {"run": other, "part": "encoder"}}})
    run(spec, given)
    run_dir, mask = given.store.run(spec), mask_of(given.store.run(spec), 0)
    student = weights_of(given.store.run(spec.starts[0].run), 12)
    for name, value in weights_of(run_dir, 0).items():
        if name.startswith("encoder."):
            assert torch.equal(value, student[name] * mask[name] if name in mask else student[name])


def test_asked_at_any_moment_it_ends_with_the_same_bits(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    spec = tiny(at(2, "2it"))
    alone = settings(store=Store(tmp_path / "alone"))
    run(spec, alone)
    total = {name: files(alone.store.run(each), 12) for name, each in (("1", tiny(at(1, "2it"))), ("2", spec))}
    for number in range(5, 400, 23):
        try:
            run(spec, settings(stop=Asked(number)))
        except Stopped:
            continue
        break
    given = settings()
    assert given.store.run(spec).status().attempts > 3
    for name, each in (("1", tiny(at(1, "2it"))), ("2", spec)):
        assert files(given.store.run(each), 12) == total[name]
    kept = {"mask.safetensors", "student.safetensors"}
    assert total["2"].keys() == kept


def test_batched_rounds_are_masked_too(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    specs = [tiny({**at(1, "2it"), "precision": "float64", "seeds.student": seed}) for seed in (0, 1)]
    for spec in specs:
        for needed in spec.dependencies:
            run(needed, settings())
    for result in run_batched(specs, [settings()] * 2):
        assert not isinstance(result, BaseException)
    alone = settings(store=Store(tmp_path / "alone"))
    for spec in specs:
        run_dir, mask = settings().store.run(spec), mask_of(settings().store.run(spec), 12)
        run(spec, alone)
        for name, value in weights_of(alone.store.run(spec), 12).items():
            assert torch.allclose(value, weights_of(run_dir, 12)[name].to(value))
        assert all((weights_of(run_dir, 12)[name][~each] == 0).all() for name, each in mask.items())


def test_an_emptied_layer_ends_the_chain_by_name(tiny: Tiny, settings: Make) -> None:
    given, number = settings(), 1
    try:
        for number in range(1, 99):
            run(tiny(at(number, fraction=0.7)), given)
    except RunError as error:
        message = str(error)
    assert number > 1
    assert f"ends before round {number}, at " in message
    assert "in 1 layer: projector.bottleneck" in message
    assert "prune.fraction" in message
    before, spec, after = (tiny(at(each, fraction=0.7)) for each in (number - 1, number, number + 1))
    failure = given.store.run(spec).failure()
    assert failure is not None
    assert failure["reason"] == message
    assert given.store.run(before).result() is not None
    with pytest.raises(RunError, match=f"{spec.name}.*{message[:20]}"):
        run(after, given)
    # By layer all lose their last weight together.
    run(tiny(at(2, fraction=0.8, scope="layer")), given)


def test_by_layer_every_tensor_loses_its_share(tiny: Tiny, settings: Make) -> None:
    given = settings()
    run(tiny(at(1, scope="layer", fraction=0.3)), given)
    for mask in mask_of(given.store.run(tiny(at(1, scope="layer", fraction=0.3))), 12).values():
        assert int(mask.sum()) == mask.numel() - math.ceil(0.3 * mask.numel())


def test_the_start_of_a_pruned_run_is_taken_from_it(tiny: Tiny, settings: Make) -> None:
    given = settings()
    spec = tiny({**BASE, "student": {"start_from": {"run": {"same_but": {"prune": {"round": 1}}}, "take": "init"}}})
    assert [each.name for each in spec.dependencies] == [spec.starts[0].run.name]
    run(spec, given)
    taken = weights_of(given.store.run(spec.starts[0].run), 0)
    assert all(torch.equal(value, taken[name]) for name, value in weights_of(given.store.run(spec), 0).items())


def test_exported_weights_hold_the_zeros(tiny: Tiny, settings: Make) -> None:
    given, spec = settings(), tiny(at(1))
    run(spec, given)
    run_dir = given.store.run(spec)
    _, weights = load_weights(run_dir, "student")
    mask = mask_of(run_dir, 12)
    assert all(np.count_nonzero(weights[name].numpy()) == int(each.sum()) for name, each in mask.items())


def test_its_cost_is_that_of_the_steps_after_the_rewinding(tiny: Tiny) -> None:
    assert run_length(tiny(at(3, "6it")), 1437) == (6, 4, 3, 6)
    assert run_length(tiny(at(3)), 1437) == run_length(tiny(BASE), 1437)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (at(1, "3ep"), "at or beyond the end of the run, 3ep"),
        ({**at(1, "2ep"), "train.stop": "2ep"}, "at or beyond the end of the run, 2ep"),
        ({**at(1, "1ep"), "train.optimizer.lr": "cosine(0.1, 0)"}, "lr is cosine.*3ep"),
        ({**at(1, "1ep"), "train.optimizer.lr": "multistep(0.1, 0.1, 50%)"}, "prune.rewind"),
        ({**at(1, "1ep"), "train.optimizer.weight_decay": "linear(0, 1, 20%) + constant(1)"}, "weight_decay"),
        ({**at(1), "projector.parts": "-/lb/fn/wn/l/-"}, "weight norm"),
        ({**at(1), "student": {"start_from": {"run": STOPPED, "take": "state"}}}, "prune.rewind"),
        (at(-1), "greater than or equal to 0"),
        (at(1, fraction=1.0), "less than 1"),
        (at(1, fraction=0.0), "greater than 0"),
        (at(1, "1 epoch"), "is not a moment"),
        (at(1, scope="locl"), "global"),
        (at(1, parameters="biases"), "weights"),
        ({"prune": {"round": 1}}, "prune"),
    ],
)  # fmt: skip
def test_bad_input(tiny: Tiny, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny(changes)


def test_a_schedule_to_the_end_is_fine_from_the_start_on_and_with_lengths(tiny: Tiny) -> None:
    tiny({**at(1), "train.optimizer.lr": "cosine(0.1, 0)"})
    tiny({**at(1, "1ep"), "train.optimizer.lr": "cosine(0.1, 0, 3ep)"})
    tiny({**at(1, "1ep"), "train.optimizer.lr": "linear(0, 0.1, 2it) + constant(0.1)"})


@pytest.mark.parametrize("rewind", ["12it", "13it"])
def test_rewinding_beyond_the_end_that_only_the_data_set_tells(tiny: Tiny, digits: Prepared, rewind: str) -> None:
    check(tiny(at(1, "11it")), digits.folder.parent)
    with pytest.raises(InputError, match=r"prune.rewind is after 1. steps, but this run ends after 12 steps"):
        check(tiny(at(1, rewind)), digits.folder.parent)
