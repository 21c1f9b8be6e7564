from __future__ import annotations

from pathlib import Path

import pytest

from rt_scale.data.catalogue import BUNDLED, DATASETS, prepare_command
from rt_scale.data.datasets.base import DataSet
from rt_scale.data.meta import check_name


@pytest.mark.parametrize("data", DATASETS.values(), ids=DATASETS)
def test_entries_are_consistent(data: DataSet) -> None:
    assert DATASETS[check_name(data.name)] is data
    # Where the parts of an original vary, or nobody published them, statistics are known once it is prepared.
    measured = data.stats_source.startswith("measured") and data.name not in BUNDLED
    assert len(data.mean) == len(data.std) == (0 if measured else data.channels)
    assert len(set(data.classes)) == len(data.classes)
    assert all(0 < each < 1 for each in (*data.mean, *data.std))
    assert all(len(each.md5) in (0, 32) and each.url.endswith(each.file) for each in data.downloads)
    assert all(len(md5) == 32 for md5 in data.checksums.values())
    assert bool(data.downloads) is (data.name not in BUNDLED)


def test_known_sizes() -> None:
    sizes = {data.name: (data.train, data.test, len(data.classes)) for data in DATASETS.values()}
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


def test_the_command_is_the_one_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_SCALE_DATA", "/data")
    assert prepare_command("cifar10", Path("/data")) == "rt-scale data prepare cifar10"
    assert prepare_command("pets", Path("/data")) == "rt-scale data prepare pets --from FOLDER"
    elsewhere = prepare_command("mnist", Path("/my data"))
    assert elsewhere == "rt-scale data prepare mnist --data-dir '/my data'"
