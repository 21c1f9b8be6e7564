"""Runs that need runs: each once, none before what it needs."""

from __future__ import annotations

from typing import Any

import pytest

from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.run import RunSpec, all_runs

SMALL: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}


def spec(seed: int = 0, teacher: RunSpec | None = None, student: RunSpec | None = None) -> RunSpec:
    document: dict[str, Any] = {**SMALL, "seeds": {"data": seed}}
    for role, run in (("teacher", teacher), ("student", student)):
        if run is not None:
            document[role] = {"start_from": {"run": run.model_dump(mode="json")}}
    return RunSpec.model_validate(document)


def test_a_run_of_its_own_needs_none() -> None:
    assert all_runs([spec()]) == [spec()]


def test_what_needs_none_comes_first_and_the_run_itself_last() -> None:
    first = spec(1)
    second = spec(2, teacher=first)
    third = spec(3, teacher=second)
    assert all_runs([third]) == [first, second, third]


def test_a_run_that_two_need_is_there_once() -> None:
    first = spec(1)
    left, right = spec(2, teacher=first), spec(3, teacher=first)
    both = spec(4, teacher=left, student=right)
    assert all_runs([both]) == [first, left, right, both]


def test_all_runs_keep_the_order_asked_for_where_they_can() -> None:
    first, alone = spec(1), spec(9)
    later, other = spec(2, teacher=first), spec(3, student=first)
    assert all_runs([alone, later, first, other, later]) == [alone, first, later, other]


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_two_starts_from_one_run_a_level_are_no_tree(levels: int) -> None:
    run = spec()
    chain = [run]
    for level in range(levels):
        run = spec(level + 1, teacher=run, student=run)
        chain.append(run)
    assert all_runs([run]) == chain


def test_every_run_is_looked_into_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = spec()
    for level in range(6):
        run = spec(level + 1, teacher=run, student=run)
    looked: list[str] = []
    starts = TrainingSpec.starts.fget  # type: ignore[attr-defined]

    def watch(each: TrainingSpec) -> Any:
        looked.append(each.name)
        return starts(each)

    monkeypatch.setattr(TrainingSpec, "starts", property(watch))
    all_runs([run])
    assert len(looked) == len(set(looked)) == 7


def test_all_runs_of_a_generator() -> None:
    assert all_runs(spec(seed) for seed in (3, 1, 3)) == [spec(3), spec(1)]
