"""Memory that the C allocator keeps."""

from __future__ import annotations

import pytest
import torch

from rt_scale.system import memory
from rt_scale.system.memory import keep_freed_memory

# From glibc's malloc.h, mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4


class Glibc:
    """Stands in for glibc."""

    def __init__(self) -> None:
        self.settings: dict[int, int] = {}
        self.trimmed = 0
        self.gnu_get_libc_version = None

    def mallopt(self, parameter: int, value: int) -> int:
        self.settings[parameter] = value
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.trimmed += 1
        return 1


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> Glibc:
    recorder = Glibc()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: recorder)
    return recorder


def assert_given_back(libc: Glibc) -> None:
    assert libc.settings[M_MMAP_MAX] == 65536
    assert 0 < libc.settings[M_TRIM_THRESHOLD] < 1 << 30
    assert 0 < libc.settings[M_MMAP_THRESHOLD] < 1 << 30
    assert libc.trimmed == 1


def test_freed_memory_is_kept_inside_and_given_back_after(libc: Glibc) -> None:
    with keep_freed_memory():
        assert libc.settings == {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
        assert libc.trimmed == 0
    assert_given_back(libc)


def test_given_back_after_an_error_too(libc: Glibc) -> None:
    with pytest.raises(ZeroDivisionError), keep_freed_memory():
        raise ZeroDivisionError
    assert_given_back(libc)


def test_the_real_allocator_takes_the_settings_and_numbers_do_not_depend_on_them() -> None:
    plain = torch.arange(20_000_000, dtype=torch.float64).sum()
    with keep_freed_memory():
        kept = torch.arange(20_000_000, dtype=torch.float64).sum()
    assert torch.equal(plain, kept)


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    with keep_freed_memory():
        assert torch.ones(3).sum() == 3
