"""Named random streams: every draw comes from a generator whose seed is made here."""

from __future__ import annotations

import hashlib


def stream(name: str, *keys: int) -> int:
    """The 63-bit seed of the random stream ``name`` at ``keys``.

    Streams of different names, or of one name at different keys, are independent for
    every practical purpose: the seed is the head of a SHA-256 digest of both.

    Args:
        name: what is drawn, e.g. ``"teacher"`` or ``"data.order"``.
        keys: the user's seed and whatever else indexes the draw (an epoch, say).

    Returns:
        An integer in [0, 2**63).
    """
    text = ":".join([name, *(str(int(key)) for key in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
