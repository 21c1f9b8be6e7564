"""Philox-4x32-10 against its authors' test vectors, and against plain integers that are held to NumPy's wider kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rt_scale.data.loaders.gaussian import philox

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
NARROW = (32, (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85))
WIDE = (64, (0xD2E7470EE14C6C93, 0xCA5A826395121157), (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B))
ONES = 0xFFFFFFFF


def naive(counter: list[int], key: list[int], kind: tuple[int, tuple[int, int], tuple[int, int]]) -> list[int]:
    """Ten rounds on Python's integers, for words of any width."""
    bits, multipliers, steps = kind
    limit = 1 << bits
    for _ in range(10):
        high, low = zip(
            *(divmod(m * counter[at], limit) for m, at in zip(multipliers, (0, 2), strict=True)), strict=True
        )
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]]
        key = [(word + step) % limit for word, step in zip(key, steps, strict=True)]
    return counter


def ours(counter: list[int], key: list[int], device: str = "cpu") -> list[int]:
    words = tuple(torch.tensor([word], device=device) for word in counter)
    return [int(word) for word in philox(words, key[0] | key[1] << 32)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_the_vectors_of_random123(counter: list[int], key: list[int], expected: list[int], device: str) -> None:
    assert ours(counter, key, device) == expected == naive(counter, key, NARROW)


@pytest.mark.parametrize("seed", range(5))
def test_plain_integers_of_64_bits_are_numpys(seed: int) -> None:
    words = [int(word) for word in np.random.default_rng(seed).integers(1, 2**63, 6)]
    counter, key = words[:4], words[4:]
    generator = np.random.Philox(counter=sum(word << 64 * at for at, word in enumerate(counter)), key=key)
    # NumPy counts before it draws.
    assert generator.random_raw(4).tolist() == naive([counter[0] + 1, *counter[1:]], key, WIDE)


WORD = st.integers(0, ONES)


@given(st.lists(WORD, min_size=4, max_size=4), st.lists(WORD, min_size=2, max_size=2))
def test_any_counter_and_key(counter: list[int], key: list[int]) -> None:
    assert ours(counter, key) == naive(counter, key, NARROW)


@pytest.mark.parametrize("device", DEVICES)
def test_counters_broadcast(device: str) -> None:
    column, row = torch.arange(5, device=device)[:, None], torch.arange(7, device=device)[None]
    words = philox((row, torch.zeros_like(row), column + ONES - 4, torch.full_like(column, 3)), 1 << 40)
    assert [(word.shape, word.dtype, word.device.type) for word in words] == [((5, 7), torch.int64, device)] * 4
    for i in range(5):
        for j in range(7):
            assert [int(word[i, j]) for word in words] == naive([j, 0, i + ONES - 4, 3], [0, 1 << 8], NARROW)
