"""The checksum of TensorBoard's event files, without a loop over bytes.

TensorBoard computes it byte by byte in Python, which takes most of the time that writing many curves takes.
"""

from __future__ import annotations

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78
"""Castagnoli's, its bits reversed (RFC 3720, appendix B.4)."""
BLOCK = 2048
"""Bytes that are taken at once; there is a table of 256 numbers for each."""


def masked_crc32c(data: bytes) -> int:
    """CRC-32C of ``data``, turned and shifted as the record format asks (tensorflow/core/lib/hash/crc32c.h)."""
    checksum = crc32c(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C of ``data``.

    The checksum is linear over GF(2): that of a block is the exclusive or of what each byte contributes at its
    distance from the block's end, the state before being added to the block's first four bytes.
    """
    tables, state = _tables(), 0xFFFFFFFF
    padded = np.frombuffer(data, np.uint8)
    for start in range(0, len(padded), BLOCK):
        block = padded[start : start + BLOCK].copy()
        before = np.frombuffer(state.to_bytes(4, "little"), np.uint8)[: len(block)]
        block[: len(before)] ^= before
        found = int(np.bitwise_xor.reduce(tables[np.arange(len(block) - 1, -1, -1), block]))
        # Of a block shorter than the state, what is left of the state has not met a byte yet.
        state = found ^ state >> 8 * len(block)
    return state ^ 0xFFFFFFFF


@functools.cache
def _tables() -> np.ndarray:
    """uint32 [BLOCK, 256]: what a byte contributes that so many others follow."""
    tables = np.empty((BLOCK, 256), np.uint32)
    tables[0] = np.arange(256)
    for _ in range(8):
        tables[0] = tables[0] >> 1 ^ POLYNOMIAL * (tables[0] & 1)
    for distance in range(1, BLOCK):
        tables[distance] = tables[distance - 1] >> 8 ^ tables[0][tables[distance - 1] & 0xFF]
    return tables
