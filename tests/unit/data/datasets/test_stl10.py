from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt_scale.data.datasets.base import DataSet, Source, Split
from rt_scale.data.datasets.stl10 import STL10, STL10_UNLABELED, read_stl10
from rt_scale.spec.errors import InputError

MakeSource = Callable[..., Source]
Small = Callable[..., DataSet]
TRAIN, TEST, UNLABELLED = 6, 4, 5


@pytest.fixture
def info(small: Small) -> DataSet:
    return small("stl10", TRAIN, TEST)


@pytest.fixture
def unlabelled(small: Small) -> DataSet:
    return small("stl10_unlabeled", UNLABELLED, TEST)


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    """uint8 [n, height, width, 3] by part."""
    generator = np.random.default_rng(0)
    counts = {"train": TRAIN, "test": TEST, "unlabeled": UNLABELLED}
    return {part: generator.integers(0, 256, (count, 96, 96, 3), np.uint8) for part, count in counts.items()}


@pytest.fixture
def release(tmp_path: Path, images: dict[str, np.ndarray]) -> Path:
    """The unpacked release: of every image each channel, of every channel each column, from top to bottom."""
    folder = tmp_path / "here" / "stl10_binary"
    folder.mkdir(parents=True)
    for part, pixels in images.items():
        columns = [image[:, column, channel] for image in pixels for channel in range(3) for column in range(96)]
        (folder / f"{part}_X.bin").write_bytes(np.concatenate(columns).tobytes())
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes(bytes(1 + number % 10 for number in range(len(pixels))))
    (folder / "class_names.txt").write_text("airplane\n")
    return folder


def pack(release: Path, archive: Path, prefix: str = "stl10_binary/") -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(release.iterdir()):
            tar.add(file, prefix + file.name)
    return archive


def pixels_of(split: Split) -> np.ndarray:
    return np.concatenate(list(split.chunks()))


def test_folder_archive_and_folders_of_either_are_read(
    source: MakeSource, info: DataSet, release: Path, images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    mine, other = pack(release, tmp_path / "mine.tgz"), tmp_path / "other"
    other.mkdir()
    pack(release, other / "stl10_binary.tar.gz")
    for path in (release, release.parent, mine, other):
        original = read_stl10(info, source(path))
        np.testing.assert_array_equal(pixels_of(original.train), images["train"])
        np.testing.assert_array_equal(pixels_of(original.test), images["test"])
        np.testing.assert_array_equal(original.train.labels, [0, 1, 2, 3, 4, 5])
        np.testing.assert_array_equal(original.test.labels, [0, 1, 2, 3])
        assert original.notes == {"release": "stl10_binary"}
        assert (original.info, original.measure) == (info.info, False)
    assert "unlabeled_X.bin" not in os.listdir(tmp_path / "scratch")


def test_what_a_folder_holds(release: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    pack(release, tmp_path / "packed" / "stl10_binary.tar.gz")
    assert all(STL10.locate(folder) for folder in (release, release.parent, tmp_path / "packed"))
    (release / "test_y.bin").unlink()
    assert not STL10.locate(release)
    assert not STL10.locate(tmp_path)


@pytest.mark.parametrize(
    ("gone", "left"), [("train_y.bin", [STL10_UNLABELED]), ("unlabeled_X.bin", [STL10]), ("test_X.bin", [])]
)
def test_a_folder_may_hold_one_part_alone(release: Path, gone: str, left: list[DataSet]) -> None:
    assert all(data.locate(release) for data in (STL10, STL10_UNLABELED))
    (release / gone).unlink()
    assert [data for data in (STL10, STL10_UNLABELED) if data.locate(release)] == left


@pytest.mark.parametrize("known", [(), (0.4, 0.5, 0.6)])
def test_statistics_that_nobody_published_are_measured(
    source: MakeSource, info: DataSet, release: Path, known: tuple[float, ...]
) -> None:
    assert read_stl10(dataclasses.replace(info, mean=known, std=known), source(release)).measure is (not known)


@pytest.mark.parametrize("packed", [False, True])
def test_the_unlabelled_images_are_another_part(
    unlabelled: DataSet, source: MakeSource, release: Path, images: dict[str, np.ndarray], tmp_path: Path, packed: bool
) -> None:
    for name in ("train_X.bin", "train_y.bin"):
        (release / name).unlink()
    path = pack(release, tmp_path / "mine.tgz") if packed else release
    original = read_stl10(unlabelled, source(path))
    np.testing.assert_array_equal(pixels_of(original.train), images["unlabeled"])
    np.testing.assert_array_equal(original.train.labels, np.zeros(UNLABELLED))
    np.testing.assert_array_equal(original.test.labels, [0, 1, 2, 3])
    assert "none" in original.notes["labels"]


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    pictures = (Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC) for each in pixels)
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("size", [32, 120])
def test_another_size(
    source: MakeSource, info: DataSet, release: Path, images: dict[str, np.ndarray], size: int
) -> None:
    original = read_stl10(info, source(release, size))
    np.testing.assert_array_equal(pixels_of(original.train), resized(images["train"], size))
    np.testing.assert_array_equal(pixels_of(original.test), resized(images["test"], size))
    assert f"to {size} x {size}: scaled (bicubic, antialiased)" in original.notes["resized"]
    assert (original.info.size, original.measure) == (size, True)
    assert original.info.stats_source == f"measured on the training images at {size} x {size}"


def test_its_own_size_is_left_alone(source: MakeSource, info: DataSet, release: Path) -> None:
    original = read_stl10(info, source(release, 96))
    assert (original.info, original.measure, "resized" in original.notes) == (info.info, False, False)
    with pytest.raises(InputError, match="at least 1"):
        read_stl10(info, source(release, 0))


@pytest.mark.parametrize("name", ["train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin"])
@pytest.mark.parametrize("keep", [0, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_cut_is_named(
    unlabelled: DataSet,
    source: MakeSource,
    info: DataSet,
    release: Path,
    tmp_path: Path,
    name: str,
    keep: int,
    packed: bool,
) -> None:
    os.truncate(release / name, keep)
    path = pack(release, tmp_path / "mine.tgz") if packed else release
    data = unlabelled if name.startswith("unlabeled") else info
    with pytest.raises(InputError, match=rf"Cannot read '{path}: {name}': .*truncated, or damaged.*stl10_binary"):
        read_stl10(data, source(path))


@pytest.mark.parametrize("label", [0, 11])
def test_labels_out_of_range_are_named(source: MakeSource, info: DataSet, release: Path, label: int) -> None:
    (release / "test_y.bin").write_bytes(bytes([1, 10, label, 2]))
    with pytest.raises(InputError, match=rf"test_y\.bin': label {label} of image 2 is out of range: they are 1 to 10"):
        read_stl10(info, source(release))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["train_y.bin", "unlabeled_X.bin"])
def test_a_file_must_have_its_checksum(
    unlabelled: DataSet, source: MakeSource, info: DataSet, release: Path, tmp_path: Path, packed: bool, name: str
) -> None:
    data = unlabelled if name.startswith("unlabeled") else info
    digest = hashlib.md5((release / name).read_bytes()).hexdigest()
    path = pack(release, tmp_path / "mine.tgz") if packed else release
    read_stl10(dataclasses.replace(data, checksums={name: digest}), source(path))
    with pytest.raises(InputError, match=f"Wrong checksum: '{name}' in '{path}' has MD5 {digest}.*{'0' * 32}"):
        read_stl10(dataclasses.replace(data, checksums={name: "0" * 32}), source(path))


def test_the_official_checksums_are_of_the_release() -> None:
    names = {"train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin"}
    assert names == STL10.checksums.keys()


def test_what_is_missing_is_named(source: MakeSource, info: DataSet, release: Path, tmp_path: Path) -> None:
    (release / "test_X.bin").unlink()
    with pytest.raises(InputError, match=r"does not hold STL-10: test_X\.bin missing"):
        read_stl10(info, source(release))
    archive = pack(release, tmp_path / "mine.tgz")
    with pytest.raises(
        InputError,
        match=r"mine\.tgz' does not hold STL-10: test_X\.bin missing",
    ):
        read_stl10(info, source(archive))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_truncated_archive_is_refused(
    source: MakeSource, info: DataSet, release: Path, tmp_path: Path, share: float
) -> None:
    archive = pack(release, tmp_path / "mine.tgz")
    os.truncate(archive, int(archive.stat().st_size * share))
    with pytest.raises(InputError, match=r"mine\.tgz"):
        read_stl10(info, source(archive))


def test_no_member_leaves_the_scratch_folder(source: MakeSource, info: DataSet, release: Path, tmp_path: Path) -> None:
    archive = pack(release, tmp_path / "mine.tgz", prefix="../../evil/")
    given = source(archive)
    before = set(tmp_path.rglob("*"))
    read_stl10(info, given)
    assert {path.parent for path in set(tmp_path.rglob("*")) - before} == {tmp_path / "scratch"}


def test_a_link_is_no_file(source: MakeSource, info: DataSet, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "mine.tar", "w") as tar:
        for name in ("train_X.bin", "train_y.bin", "test_X.bin"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("test_y.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(InputError, match=r"does not hold STL-10: test_y\.bin missing"):
        read_stl10(info, source(tmp_path / "mine.tar"))


def test_too_little_disk_is_said_before_unpacking(
    source: MakeSource, info: DataSet, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(release, tmp_path / "mine.tgz")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Free)
    with pytest.raises(InputError, match=rf"Disk full.*{TEST * 27648:,} bytes are needed, 7 are free"):
        read_stl10(info, source(archive))
    assert not os.listdir(tmp_path / "scratch")


class _Free:
    free = 7
