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
from rt_scale.data.datasets.cifar import RELEASES, holds_cifar, load_arrays, read_cifar
from rt_scale.spec.errors import InputError

MakeSource = Callable[..., Source]
Small = Callable[..., DataSet]
WriteCifar = Callable[..., tuple[np.ndarray, np.ndarray]]
FORMS = ["python2", "pickle2", "pickle4", "binary"]


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
    release = RELEASES[classes][form == "binary"]
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
    assert holds_cifar(info, archive.parent)
    assert not holds_cifar(info, tmp_path / "nowhere")
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


def test_an_incomplete_release_lists_what_is_expected(
    source: MakeSource, small: Small, write_cifar: WriteCifar, tmp_path: Path
) -> None:
    info = small("cifar10", 15, 3)
    write_cifar(tmp_path / "a", 10, "binary")
    (tmp_path / "a" / "data_batch_3.bin").unlink()
    assert not holds_cifar(info, tmp_path / "a")
    with pytest.raises(InputError, match=r"does not hold CIFAR-10.*data_batch_3\.bin"):
        read_cifar(info, source(tmp_path / "a"))


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        ([[1, 2]], [0], "uint8 rows"),
        (np.zeros((2, 3071), np.uint8), [0, 1], "uint8 rows"),
        (np.zeros((2, 3072), np.uint8), [0], "list of 2 integers"),
        (np.zeros((2, 3072), np.uint8), [0, "1"], "list of 2 integers"),
        (np.zeros((2, 3072), np.uint8), None, "list of 2 integers"),
    ],
)
def test_odd_batches_are_refused(
    source: MakeSource, small: Small, tmp_path: Path, data: object, labels: object, message: str
) -> None:
    info = small("cifar100", 2, 2)
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(pickle.dumps({"data": data, "fine_labels": labels}))
    with pytest.raises(InputError, match=message):
        read_cifar(info, source(tmp_path))


class _Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_that_a_pickle_asks_for_is_run(tmp_path: Path) -> None:
    content = pickle.dumps({"data": _Attack(tmp_path / "made")})
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        load_arrays(content)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_rebuilt(protocol: int, order: str) -> None:
    values = np.array(np.arange(12, dtype=np.uint8).reshape(3, 4), order=order)  # type: ignore[call-overload]
    loaded = load_arrays(pickle.dumps({"a": values, b"b": [1, 2]}, protocol=protocol))
    np.testing.assert_array_equal(loaded["a"], values)
    assert loaded["b"] == [1, 2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": np.zeros(2, np.int64)}, "only uint8"),
        ({"a": np.array([object()], object)}, "object|only uint8"),
        ({"a": np.float64(1)}, "scalar|only uint8"),
        ([1, 2], "a list, not a dict"),
    ],
)
def test_other_contents_are_refused(value: object, message: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=message):
        load_arrays(pickle.dumps(value, protocol=2))


def test_other_codecs_are_refused() -> None:
    content = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R."
    with pytest.raises(pickle.UnpicklingError, match="rot13"):
        load_arrays(content)


def test_an_array_without_a_type_is_refused() -> None:
    content = b"\x80\x02}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n)R(K\x01K\x01NNNtbs."
    with pytest.raises(pickle.UnpicklingError, match="without a type"):
        load_arrays(content)
