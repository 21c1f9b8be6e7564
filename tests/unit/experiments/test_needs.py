"""What a run needs in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rt_scale.data.prepare import Prepared
from rt_scale.data.prepared import noise_set
from rt_scale.experiments.check import cache_bytes, image_bytes
from rt_scale.spec.run import RunSpec

Tiny = Callable[..., RunSpec]


def test_what_images_take(tiny: Tiny, digits: Prepared) -> None:
    assert image_bytes(tiny(), digits) == 60 * 8 * 8
    assert image_bytes(tiny({"data.samples": None}), digits) == 1437 * 8 * 8
    assert image_bytes(tiny(), noise_set("gaussian", 60, 8, 1, 1.0)) == 0


def test_supervised_training_has_no_targets_to_cache(tiny: Tiny, digits: Prepared) -> None:
    assert cache_bytes(tiny({"kind": "supervise", "projector.out_dim": 10}), digits) == 0


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("float64", 8), ("bf16", 4)])
def test_the_cache_is_one_bottleneck_feature_vector_an_image(
    tiny: Tiny, digits: Prepared, precision: str, size: int
) -> None:
    spec = tiny({"precision": precision, "projector.bottleneck": 7})
    assert cache_bytes(spec, digits) == 60 * 7 * size
    assert cache_bytes(spec, noise_set("gaussian", 60, 8, 1, 1.0)) == 60 * 7 * size
    every = tiny({"precision": precision, "projector.bottleneck": 7, "data.samples": None})
    assert cache_bytes(every, digits) == 1437 * 7 * size
    assert cache_bytes(every, noise_set("gaussian", 90, 8, 1, 1.0)) == 90 * 7 * size
