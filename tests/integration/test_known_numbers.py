"""The pipeline, from files to accuracies, agrees with numbers that are known from elsewhere.

The bundled digits always; with RT_SCALE_TEST_DATA also every archive of class folders there that holds
CIFAR-10's ten classes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.data.prepare import Prepared, open_prepared, prepare
from rt_scale.probes.features import Features, embed
from rt_scale.probes.knn import knn_accuracy

GIVEN = os.environ.get("RT_SCALE_TEST_DATA")
ARCHIVES = sorted(Path(GIVEN).glob("cifar10*.tar*")) if GIVEN else []


def pixel_features(data: Prepared) -> tuple[Features, Features]:
    def inputs(images: torch.Tensor) -> torch.Tensor:
        return to_inputs(images, data.info.mean, data.info.std, None, torch.float32)

    train, test = (
        embed(torch.nn.Flatten(), ResidentLoader(split, batch_size=1000, seed=0, device="cpu"), inputs)
        for split in (data.train, data.test)
    )
    return train, test


def scikit_learns(train: Features, test: Features) -> float:
    """The same accuracy by another implementation."""
    theirs = KNeighborsClassifier(20, algorithm="brute").fit(train.x.numpy(), train.y.numpy())
    return float(np.mean(theirs.predict(test.x.numpy()) == test.y.numpy()))


@pytest.mark.parametrize("archive", [None, *ARCHIVES], ids=lambda path: path.name if path else "digits")
def test_pixels_have_their_known_accuracy(archive: Path | None, tmp_path: Path) -> None:
    """20 nearest neighbours of normalised pixels on the test split, of photographs on its first quarter."""
    data = open_prepared("digits", tmp_path) if archive is None else prepare("photographs", tmp_path, archive)
    torch.set_num_threads(os.cpu_count() or 1)  # 0.8 TFLOP
    train, test = pixel_features(data)
    count = len(test.y) if archive is None else len(test.y) // 4
    accuracy = knn_accuracy(*train, test.x[:count], test.y[:count], k=20, classes=10)
    if archive is None:
        assert accuracy == pytest.approx(scikit_learns(train, test), abs=1 / 360)
        assert 0.94 < accuracy < 0.99
        return
    assert (len(data.train.labels), len(data.test.labels), len(data.info.classes)) == (50_000, 10_000, 10)
    assert data.info.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=2e-3)
    # The paper's table 3 has 33.61 % for the original pixels; re-encoded as JPEG 33.8 % was measured elsewhere, on the
    # whole test split. Its first quarter has 34.5 %, within a standard error (0.9 %) of that.
    assert accuracy == pytest.approx(0.3452, abs=0.001)
