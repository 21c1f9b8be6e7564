"""A run of a tenth of a second for the Python API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.data.prepare import Prepared, open_prepared

TINY: dict[str, Any] = {
    "data": {"name": "digits", "samples": 60},
    "encoder": {"name": "convnet_4_1", "norm": "batch"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "train": {"epochs": 2, "batch_size": 32},
    "probe": {"every": "1ep", "knn": 5, "epochs": 2, "batch_size": 32},
}
"""2 epochs of 2 steps each."""


@pytest.fixture
def places(tmp_path: Path, data_dir: Path) -> dict[str, Any]:
    """Where runs and data are, and no bar: arguments of every call."""
    return {"store": tmp_path / "store", "data_dir": data_dir, "device": "cpu", "progress": False}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def digits(data_dir: Path) -> Prepared:
    return open_prepared("digits", data_dir)
