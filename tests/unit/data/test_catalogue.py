from __future__ import annotations

import json

import pytest

from rt_scale.data.catalogue import DATASETS, DataInfo
from rt_scale.data.places import check_name


@pytest.mark.parametrize("info", DATASETS.values(), ids=DATASETS)
def test_entries_are_consistent(info: DataInfo) -> None:
    assert DATASETS[check_name(info.name)] is info
    # Where the parts of an original vary, or nobody published them, statistics are known once it is prepared.
    measured = info.reader == "npz" or not info.labelled
    assert len(info.mean) == len(info.std) == (0 if measured else info.channels)
    assert len(set(info.classes)) == len(info.classes)
    assert all(0 < each < 1 for each in (*info.mean, *info.std))
    assert all(len(each.md5) in (0, 32) and each.url.endswith(each.file) for each in info.downloads)
    assert all(len(md5) == 32 for _, md5 in info.checksums)
    assert info.downloads or info.reader == "digits"


@pytest.mark.parametrize("info", DATASETS.values(), ids=DATASETS)
def test_entries_survive_json(info: DataInfo) -> None:
    assert DataInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_foreign_keys_are_refused() -> None:
    with pytest.raises(TypeError):
        DataInfo.from_json({**DATASETS["digits"].to_json(), "colour": 1})


def test_known_sizes() -> None:
    sizes = {info.name: (info.train, info.test, len(info.classes)) for info in DATASETS.values()}
    assert sizes == {
        "digits": (1437, 360, 10),
        "mnist": (60_000, 10_000, 10),
        "fashion_mnist": (60_000, 10_000, 10),
        "cifar10": (50_000, 10_000, 10),
        "cifar100": (50_000, 10_000, 100),
        "cifar5m": (5_002_240, 1_000_448, 10),
        "stl10": (5_000, 8_000, 10),
        "stl10_unlabeled": (100_000, 8_000, 10),
        "tiny_imagenet": (100_000, 10_000, 200),
    }
