from __future__ import annotations

import resource

import pytest
import torch

from rt_scale.training import memory
from rt_scale.training.memory import keep_freed_memory

BLOCK = 96 << 20
PAGES = BLOCK // resource.getpagesize()


def faults_of_one_block() -> int:
    """Page faults of asking for a block beyond glibc's threshold, writing to it and freeing it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BLOCK, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def faults_inside() -> int:
    """Page faults of the second such block of two."""
    with keep_freed_memory():
        faults_of_one_block()
        return faults_of_one_block()


def test_freed_blocks_are_used_again_inside_and_given_back_after() -> None:
    assert faults_inside() < PAGES // 4
    # Huge pages, where the system gives them, make fewer faults than pages; still more than none.
    assert faults_of_one_block() > faults_inside()


def test_given_back_after_an_error_too() -> None:
    def fail() -> None:
        with keep_freed_memory():
            faults_of_one_block()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert faults_of_one_block() > faults_inside()


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    assert faults_inside() > 0
