from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.datasets.base import DataSet, Original, Source
from rt_scale.data.datasets.cifar import read_cifar
from rt_scale.spec.errors import InputError
from tests.unit.data.datasets.conftest import python2_pickle

MakeSource = Callable[..., Source]
Small = Callable[..., DataSet]
WriteCifar = Callable[..., tuple[np.ndarray, np.ndarray]]
FORMS = ["python2", "binary"]


def _assert_holds(original: Original, images: np.ndarray, labels: np.ndarray, train: int) -> None:
    for split, here in ((original.train, slice(train)), (original.test, slice(train, None))):
        np.testing.assert_array_equal(np.concatenate(list(split.chunks())), images[here])
        np.testing.assert_array_equal(split.labels, labels[here])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("classes", [10, 100])
def test_every_form_is_read(
    source: MakeSource, small: Small, write_cifar: WriteCifar, tmp_path: Path, classes: int, form: str
) -> None:
    train = 15 if classes == 10 else 3
    info = small(f"cifar{classes}", train, 3)
    release = info.releases[form == "binary"]
    folder, archive = tmp_path / release.folder, tmp_path / "mine.tar.gz"
    images, labels = write_cifar(folder, classes, form, archive=archive)
    for path in (folder, tmp_path, archive):
        original = read_cifar(info, source(path))
        _assert_holds(original, images, labels, train)
        assert original.notes == {"release": release.folder}


def test_a_folder_with_the_official_archive_is_read(
    source: MakeSource, small: Small, write_cifar: WriteCifar, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    archive = tmp_path / "here" / "cifar-10-binary.tar.gz"
    images, labels = write_cifar(tmp_path / "cifar-10-batches-bin", 10, "binary", archive=archive)
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    info = small("cifar10", 15, 3, checksums={archive.name: digest})
    assert info.locate(archive.parent) == archive
    assert info.locate(tmp_path / "nowhere") is None
    _assert_holds(read_cifar(info, source(archive.parent)), images, labels, 15)


def test_an_archive_under_an_official_name_must_have_its_checksum(
    source: MakeSource, write_cifar: WriteCifar, tmp_path: Path
) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    write_cifar(tmp_path / "cifar-10-batches-py", 10, "python2", archive=archive)
    with pytest.raises(InputError, match=r"Wrong checksum.*cifar-10-python\.tar\.gz.*c58f30108f718f92721af3b95e74349a"):
        read_cifar(DATASETS["cifar10"], source(archive))


@pytest.mark.parametrize("name", ["data_batch_4", "test_batch"])
def test_batches_under_official_names_must_have_their_checksums(
    source: MakeSource, small: Small, write_cifar: WriteCifar, tmp_path: Path, name: str
) -> None:
    info = small("cifar10", 15, 3, checksums={name: "0" * 32})
    archive = tmp_path / "mine.tar.gz"
    write_cifar(tmp_path / "a", 10, "python2", archive=archive)
    for path in (tmp_path / "a", archive):
        with pytest.raises(InputError, match=f"Wrong checksum: '{name}'"):
            read_cifar(info, source(path))


@pytest.mark.parametrize("form", ["python2", "binary"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_a_truncated_archive_is_refused(
    source: MakeSource, small: Small, write_cifar: WriteCifar, tmp_path: Path, form: str, share: float
) -> None:
    info = small("cifar10", 15, 3)
    archive = tmp_path / "mine.tar.gz"
    write_cifar(tmp_path / "a", 10, form, archive=archive)
    os.truncate(archive, int(archive.stat().st_size * share))
    with pytest.raises(InputError, match=r"mine\.tar\.gz"):
        read_cifar(info, source(archive))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keep", [0, 10, 3000])
def test_a_truncated_batch_is_named(
    source: MakeSource, small: Small, write_cifar: WriteCifar, tmp_path: Path, form: str, keep: int
) -> None:
    info = small("cifar10", 15, 3)
    write_cifar(tmp_path / "a", 10, form)
    batch = next((tmp_path / "a").glob("data_batch_2*"))
    os.truncate(batch, keep)
    with pytest.raises(InputError, match=f"Cannot read .*{batch.name}"):
        read_cifar(info, source(tmp_path / "a"))


def test_what_an_incomplete_release_lacks_is_named(
    source: MakeSource, small: Small, write_cifar: WriteCifar, tmp_path: Path
) -> None:
    info = small("cifar10", 15, 3)
    write_cifar(tmp_path / "a", 10, "binary")
    (tmp_path / "a" / "data_batch_3.bin").unlink()
    assert info.locate(tmp_path / "a") is None
    with pytest.raises(InputError, match=r"does not hold CIFAR-10: data_batch_3\.bin missing"):
        read_cifar(info, source(tmp_path / "a"))


def _release(folder: Path, data: object, labels: object) -> Path:
    """A release whose batches hold these values, pickled as python 2 does if they are what a batch has."""
    for name in ("train", "test"):
        batch = {"data": data, "fine_labels": labels}
        whole = isinstance(data, np.ndarray) and isinstance(labels, list) and all(type(each) is int for each in labels)
        content = (
            python2_pickle(batch) if whole else pickle.dumps({name.encode(): each for name, each in batch.items()})
        )
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (np.zeros((2, 3071), np.uint8), [0, 1], "rows of 3,072 pixels with an integer each"),
        (np.zeros((2, 3072), np.uint8), [0], "rows of 3,072 pixels with an integer each"),
        ([[1, 2]], [0], "Cannot read .*train"),
        (None, None, "Cannot read .*train"),
        (np.zeros((2, 3072), np.int64), [0, 1], "Cannot read .*train"),
        (np.zeros((2, 3072), np.uint8), [0, "1"], "Cannot read .*train"),
    ],
)
def test_odd_batches_are_refused(
    source: MakeSource, small: Small, tmp_path: Path, data: object, labels: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_cifar(small("cifar100", 2, 2), source(_release(tmp_path, data, labels)))


def test_an_array_of_another_type_is_refused(source: MakeSource, small: Small, tmp_path: Path) -> None:
    _release(tmp_path, np.zeros((2, 3072), np.uint8), [0, 1])
    content = (tmp_path / "train").read_bytes()
    (tmp_path / "train").write_bytes(content.replace(b"u1", b"i1"))
    with pytest.raises(InputError, match="only uint8"):
        read_cifar(small("cifar100", 2, 2), source(tmp_path))


class _Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_that_a_pickle_asks_for_is_run(source: MakeSource, small: Small, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    folder = _release(tmp_path / "set", _Attack(tmp_path / "made"), [0])
    with pytest.raises(InputError, match="mkdir"):
        read_cifar(small("cifar100", 1, 1), source(folder))
    assert not (tmp_path / "made").exists()
