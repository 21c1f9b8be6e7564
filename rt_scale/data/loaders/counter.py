"""A counter-based random generator: numbers that are a function of a key and a counter, on any device."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, as fractions of 2**32
ROUNDS = 10
WORD = 0xFFFFFFFF


class Words(NamedTuple):
    """Four int64 tensors of 32-bit words, in [0, 2**32); their shapes broadcast to one."""

    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor


def philox(counter: Words, key: int) -> Words:
    """Philox-4x32-10 of every counter (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

    Integer arithmetic alone, so every device gives the same bits.

    Args:
        counter: 128 bits, the lowest word first.
        key: 64 bits, in [0, 2**64).

    Returns:
        128 random bits a counter, of the broadcast shape.
    """
    a, b, c, d = counter
    low, high = key & WORD, key >> 32
    for _ in range(ROUNDS):
        # A product of two words overflows int64, which wraps: its 64 bits are right, its sign is not.
        # So b and d go on with a product's upper half still attached, and the mask takes it off one round later.
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b = ((second >> 32) ^ b ^ low) & WORD, second
        c, d = ((first >> 32) ^ d ^ high) & WORD, first
        low, high = (low + KEY_STEPS[0]) & WORD, (high + KEY_STEPS[1]) & WORD
    return Words(a, b & WORD, c, d & WORD)
