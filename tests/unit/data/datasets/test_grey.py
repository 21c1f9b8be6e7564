from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from rt_scale.data.datasets.base import DataSet, Source
from rt_scale.data.datasets.grey import DIGITS, FILES, read_digits, read_idx
from rt_scale.spec.errors import InputError

MakeSource = Callable[..., Source]
Small = Callable[..., DataSet]
WriteIdx = Callable[..., dict[str, np.ndarray]]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dotted", [False, True])
def test_plain_and_gzipped_files_are_read(
    source: MakeSource, small: Small, write_idx: WriteIdx, tmp_path: Path, suffix: str, dotted: bool
) -> None:
    info = small("mnist", 20, 10)
    arrays = write_idx(tmp_path, 20, 10, suffix)
    if dotted:
        for path in list(tmp_path.iterdir()):
            path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert info.locate(tmp_path) == tmp_path
    original = read_idx(info, source(tmp_path))
    for split, part in ((original.train, "train"), (original.test, "t10k")):
        images = np.concatenate(list(split.chunks()))
        np.testing.assert_array_equal(images[..., 0], arrays[f"{part}-images-idx3-ubyte"])
        np.testing.assert_array_equal(split.labels, arrays[f"{part}-labels-idx1-ubyte"])
        assert split.labels.dtype == np.int64


@pytest.mark.parametrize("name", FILES)
def test_what_is_missing_is_named(
    source: MakeSource, small: Small, write_idx: WriteIdx, tmp_path: Path, name: str
) -> None:
    info = small("mnist", 20, 10)
    write_idx(tmp_path, 20, 10)
    (tmp_path / name).unlink()
    assert info.locate(tmp_path) is None
    with pytest.raises(InputError, match=f"does not hold MNIST: {name} missing"):
        read_idx(info, source(tmp_path))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("keep", [0, 3, 12, 40])
def test_a_truncated_file_is_named(
    source: MakeSource, small: Small, write_idx: WriteIdx, tmp_path: Path, suffix: str, keep: int
) -> None:
    info = small("mnist", 20, 10)
    write_idx(tmp_path, 20, 10, suffix)
    path = tmp_path / (FILES[0] + suffix)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=f"Cannot read .*{path.name}"):
        read_idx(info, source(tmp_path))


def test_too_long_a_file_is_refused(source: MakeSource, small: Small, write_idx: WriteIdx, tmp_path: Path) -> None:
    info = small("mnist", 20, 10)
    write_idx(tmp_path, 20, 10)
    with open(tmp_path / FILES[1], "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="announces"):
        read_idx(info, source(tmp_path))


def test_swapped_files_are_refused(source: MakeSource, small: Small, write_idx: WriteIdx, tmp_path: Path) -> None:
    info = small("mnist", 20, 10)
    write_idx(tmp_path, 20, 10)
    (tmp_path / FILES[0]).write_bytes((tmp_path / FILES[1]).read_bytes())
    with pytest.raises(InputError, match="does not begin like"):
        read_idx(info, source(tmp_path))


def test_images_of_another_size_are_refused(
    source: MakeSource, small: Small, write_idx: WriteIdx, tmp_path: Path
) -> None:
    info = small("mnist", 20, 10, size=32)
    write_idx(tmp_path, 20, 10)
    with pytest.raises(InputError, match="32 x 32"):
        read_idx(info, source(tmp_path))


def test_the_checksum_is_of_the_uncompressed_contents(
    source: MakeSource, small: Small, write_idx: WriteIdx, tmp_path: Path
) -> None:
    write_idx(tmp_path / "plain", 20, 10)
    write_idx(tmp_path / "gz", 20, 10, ".gz")
    right = {name: hashlib.md5((tmp_path / "plain" / name).read_bytes()).hexdigest() for name in FILES}
    info = small("mnist", 20, 10, checksums=right)
    assert len(read_idx(info, source(tmp_path / "gz")).train.labels) == 20
    wrong = small("mnist", 20, 10, checksums={FILES[2]: "0" * 32})
    for folder in ("plain", "gz"):
        with pytest.raises(InputError, match=f"Wrong checksum.*{FILES[2]}"):
            read_idx(wrong, source(tmp_path / folder))


def test_the_split_is_complete_and_stratified(
    source: MakeSource,
) -> None:
    original = read_digits(DIGITS, source(Path()))
    original.check()
    train, test = (np.concatenate(list(split.chunks())) for split in (original.train, original.test))
    assert train.shape == (1437, 8, 8, 1)
    assert test.shape == (360, 8, 8, 1)
    everything = np.concatenate([train, test])[..., 0]
    expected = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    assert {image.tobytes() for image in everything} == {image.tobytes() for image in expected}
    assert (everything.min(), everything.max()) == (0, 255)
    counts = np.bincount(original.test.labels)
    assert (counts.min(), counts.max()) == (35, 37)


def test_pinned_statistics_are_those_measured(
    source: MakeSource,
) -> None:
    pixels = np.concatenate(list(read_digits(DIGITS, source(Path())).train.chunks())) / 255
    np.testing.assert_allclose([pixels.mean(), pixels.std()], [DIGITS.mean[0], DIGITS.std[0]], atol=5e-6)


def test_the_split_is_pinned(
    source: MakeSource,
) -> None:
    assert read_digits(DIGITS, source(Path())).test.labels[:12].tolist() == [0, 2, 5, 6, 7, 0, 3, 8, 9, 5, 6, 5]
