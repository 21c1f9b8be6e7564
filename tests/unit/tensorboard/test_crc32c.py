from __future__ import annotations

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from rt_scale.tensorboard.crc32c import BLOCK, crc32c, masked_crc32c


def test_the_published_check_values() -> None:
    """RFC 3720, appendix B.4, and the usual "123456789"."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 3, 3 * BLOCK])
def test_it_is_tensorboards(length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length, np.uint8).tobytes()
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)
