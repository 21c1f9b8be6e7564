from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rt_scale.experiments.settings import Execution, Settings, allowed_cores, find_device, free_memory, resolve
from rt_scale.spec.errors import InputError


@pytest.mark.parametrize("name", ["cdua", "", "gpu", "cuda:99", "cpu:x", "meta"])
def test_unknown_devices_are_refused_and_those_that_are_here_named(name: str) -> None:
    with pytest.raises(InputError) as caught:
        find_device(name)
    text = str(caught.value)
    assert text.startswith(f"The device '{name}' cannot be used here (")
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    assert f"Here: {', '.join(here)};" in text
    assert "\n" not in text


def test_the_device_is_the_one_named() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("threads", [0, -3])
def test_threads_must_be_positive(settings: Callable[..., Settings], threads: int) -> None:
    with pytest.raises(InputError, match=f"{threads} threads were asked for; give at least 1"):
        resolve(settings(threads=threads), None, 0)


def test_threads_are_those_asked_for_else_all_that_are_allowed(settings: Callable[..., Settings]) -> None:
    assert resolve(settings(threads=3), None, 0).threads == 3
    assert resolve(settings(threads=None), None, 0).threads == allowed_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("asked", "size", "expected"),
    [(None, 0.24, True), (None, 0.26, False), (True, 10.0, True), (False, 0.0, False)],
)
def test_the_cache_is_taken_where_it_is_small_unless_the_user_decides(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, asked: bool | None, size: float, expected: bool
) -> None:
    monkeypatch.setattr("rt_scale.experiments.settings.free_memory", lambda device: 1000)
    assert resolve(settings(cache_teacher=asked), None, int(1000 * size)).cache_teacher is expected


@pytest.mark.parametrize(("threads", "cache"), [(2, True), (5, False)])
def test_a_resumed_run_keeps_what_its_bits_depend_on(
    settings: Callable[..., Settings], threads: int, cache: bool
) -> None:
    earlier = {"device": "cpu", "threads": threads, "cache_teacher": cache}
    resolved = resolve(settings(threads=1, cache_teacher=not cache), earlier, 0)
    assert resolved == Execution(torch.device("cpu"), threads, cache)


def test_a_resumed_run_may_move_to_another_device(settings: Callable[..., Settings]) -> None:
    earlier = {"device": "cuda:7", "threads": 1, "cache_teacher": True}
    assert resolve(settings(device="cpu"), earlier, 0).device == torch.device("cpu")


def test_an_execution_is_recorded_as_plain_values() -> None:
    expected: dict[str, Any] = {"device": "cpu", "threads": 2, "cache_teacher": False}
    assert Execution(torch.device("cpu"), 2, False).to_json() == expected


def test_free_memory_is_less_than_all_there_is() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory(torch.device("cpu")) < total
