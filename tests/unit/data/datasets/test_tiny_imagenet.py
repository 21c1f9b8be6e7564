from __future__ import annotations

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt_scale.data.datasets.base import DataSet, Original, Source, Split
from rt_scale.data.datasets.tiny_imagenet import TINY_IMAGENET, read_tiny_imagenet
from rt_scale.spec.errors import InputError

WNIDS = ("n01443537", "n02504458", "n07753592")
EACH, TEST = 3, 5
Read = Callable[..., Original]


@pytest.fixture
def info(small: Callable[..., DataSet]) -> DataSet:
    return small("tiny_imagenet", EACH * len(WNIDS), TEST, classes=WNIDS)


@pytest.fixture
def read(info: DataSet, source: Callable[..., Source]) -> Read:
    return lambda path, size=None: read_tiny_imagenet(info, source(path, size))


def jpeg(seed: int, grey: bool = False) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64) if grey else (64, 64, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The unpacked release, with three classes; the second training image of each is grey."""
    folder = tmp_path / "here" / "tiny-imagenet-200"
    for label, wnid in enumerate(WNIDS):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number in range(EACH):
            content = jpeg(10 * label + number, grey=number == 1)
            (images / f"{wnid}_{number}.JPEG").write_bytes(content)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    for part, count in (("val", TEST), ("test", 2)):
        (folder / part / "images").mkdir(parents=True)
        for number in range(count):
            (folder / part / "images" / f"{part}_{number}.JPEG").write_bytes(jpeg(100 + number))
    lines = (f"val_{number}.JPEG\t{WNIDS[(number + 1) % 3]}\t0\t32\t44\t62\n" for number in range(TEST))
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    words = (
        "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn02504458\tAfrican elephant\nn07753592\tbanana\n"
    )
    (folder / "words.txt").write_text(words)
    return folder


def pack(release: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(release.rglob("*")):
            file.write(path, path.relative_to(release.parent))
    return archive


def decoded(path: Path, size: int = 64) -> np.ndarray:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    return np.asarray(picture if size == 64 else picture.resize((size, size), Image.Resampling.BICUBIC))


def expected(release: Path, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    train = [release / "train" / wnid / "images" / f"{wnid}_{number}.JPEG" for wnid in WNIDS for number in range(EACH)]
    test = [release / "val" / "images" / f"val_{number}.JPEG" for number in range(TEST)]
    return np.stack([decoded(each, size) for each in train]), np.stack([decoded(each, size) for each in test])


def pixels_of(split: Split) -> np.ndarray:
    return np.concatenate(list(split.chunks()))


def test_folder_archive_and_folders_of_either_are_read(read: Read, release: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    pack(release, other / "tiny-imagenet-200.zip")
    before = sorted(tmp_path.rglob("*"))
    train, test = expected(release)
    for path in (release, release.parent, other / "tiny-imagenet-200.zip", other):
        original = read(path)
        np.testing.assert_array_equal(pixels_of(original.train), train)
        np.testing.assert_array_equal(pixels_of(original.test), test)
        np.testing.assert_array_equal(original.train.labels, [0, 0, 0, 1, 1, 1, 2, 2, 2])
        np.testing.assert_array_equal(original.test.labels, [1, 2, 0, 1, 2])
        assert original.info.classes == ("goldfish", "African elephant", "banana")
        assert (original.measure, original.info.mean) == (False, (0.4802, 0.4481, 0.3975))
        assert list(original.notes) == ["split"]
    assert set(tmp_path.rglob("*")) - {*before} == {tmp_path / "scratch"}


def test_what_a_folder_holds(release: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    pack(release, tmp_path / "packed" / "tiny-imagenet-200.zip")
    assert all(TINY_IMAGENET.locate(each) for each in (release, release.parent, tmp_path / "packed"))
    assert not TINY_IMAGENET.locate(tmp_path)


def test_other_files_are_left_out(read: Read, release: Path) -> None:
    (release / "train" / WNIDS[0] / "images" / "Thumbs.db").write_bytes(b"")
    (release / "train" / WNIDS[0] / "more").mkdir()
    (release / "train" / WNIDS[0] / "more" / "n01443537_9.JPEG").write_bytes(b"")
    np.testing.assert_array_equal(pixels_of(read(release).train), expected(release)[0])


@pytest.mark.parametrize("size", [32, 80])
def test_another_size(read: Read, release: Path, size: int) -> None:
    original = read(release, size)
    train, test = expected(release, size)
    np.testing.assert_array_equal(pixels_of(original.train), train)
    np.testing.assert_array_equal(pixels_of(original.test), test)
    assert f"to {size} x {size}: scaled (bicubic, antialiased)" in original.notes["resized"]
    assert (original.info.size, original.measure) == (size, True)
    assert original.info.stats_source == f"measured on the training images at {size} x {size}"


def test_its_own_size_is_left_alone(read: Read, release: Path) -> None:
    original = read(release, 64)
    assert (original.info.size, original.measure, "resized" in original.notes) == (64, False, False)
    with pytest.raises(InputError, match="at least 1"):
        read(release, 0)


def test_classes_of_one_name_are_told_apart(read: Read, release: Path) -> None:
    (release / "words.txt").write_text("n01443537\tcrane, bird\nn02504458\tcrane\n")
    assert read(release).info.classes == ("crane (n01443537)", "crane (n02504458)", "n07753592")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["train/n02504458/images/n02504458_2.JPEG", "val/images/val_3.JPEG"])
@pytest.mark.parametrize("content", [b"", b"no picture", jpeg(0)[:600]])
def test_an_unreadable_image_is_named(
    read: Read, release: Path, tmp_path: Path, packed: bool, place: str, content: bytes
) -> None:
    (release / place).write_bytes(content)
    path = pack(release, tmp_path / "mine.zip") if packed else release
    original = read(path)
    with pytest.raises(InputError, match=f"Cannot read '{tmp_path}.*{place}'"):
        pixels_of(original.train if place.startswith("train") else original.test)


def test_an_image_of_another_size_is_named(read: Read, release: Path) -> None:
    Image.new("RGB", (64, 60)).save(release / "val" / "images" / "val_3.JPEG")
    with pytest.raises(InputError, match=r"val_3\.JPEG' has 64 x 60 pixels, others have 64 x 64"):
        pixels_of(read(release).test)


def drop_image(folder: Path) -> None:
    (folder / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_0.JPEG").unlink()


def unknown_annotation(folder: Path) -> None:
    (folder / "val" / "val_annotations.txt").write_text(f"val_0.JPEG\t{WNIDS[0]}\nval_1.JPEG\tn99999999\n")


def half_an_annotation(folder: Path) -> None:
    (folder / "val" / "val_annotations.txt").write_text(f"val_0.JPEG\t{WNIDS[0]}\nval_1.JP")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_image, "holds 8 training images, 9 are expected"),
        (lambda folder: shutil.rmtree(folder / "train"), "holds 0 training images, 9 are expected"),
        (unknown_annotation, r"Cannot read '.*val_annotations\.txt': 'n99999999'"),
        (half_an_annotation, r"Cannot read '.*val_annotations\.txt': not enough values"),
        (lambda folder: (folder / "val" / "images" / "val_1.JPEG").unlink(), r"Cannot read '.*val_1\.JPEG'"),
        (lambda folder: (folder / "val" / "val_annotations.txt").unlink(), r"val_annotations\.txt' is missing"),
        (lambda folder: (folder / "words.txt").unlink(), r"words\.txt' is missing"),
        (lambda folder: (folder / "words.txt").write_bytes(b"\xff\xfe"), r"Cannot read '.*words\.txt'"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_named(
    read: Read, release: Path, tmp_path: Path, damage: Callable[[Path], object], message: str, packed: bool
) -> None:
    damage(release)
    path = pack(release, tmp_path / "mine.zip") if packed else release
    with pytest.raises(InputError, match=message):
        read_through(read, path)


def read_through(read: Read, path: Path) -> None:
    original = read(path)
    original.check()
    pixels_of(original.test)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_archive_is_refused(read: Read, release: Path, tmp_path: Path, share: float) -> None:
    archive = pack(release, tmp_path / "mine.zip")
    os.truncate(archive, int(archive.stat().st_size * share))
    with pytest.raises(InputError, match=r"mine\.zip"):
        read(archive)


def test_an_archive_under_the_official_name_must_have_its_checksum(
    source: Callable[..., Source], small: Callable[..., DataSet], release: Path, tmp_path: Path
) -> None:
    archive = pack(release, tmp_path / "tiny-imagenet-200.zip")
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    assert TINY_IMAGENET.checksums[archive.name] == "90528d7ca1a48142e341f4ef8d21d0de"
    right, wrong = (
        small("tiny_imagenet", 9, TEST, classes=WNIDS, checksums={archive.name: stated})
        for stated in (digest, "0" * 32)
    )
    assert len(read_tiny_imagenet(right, source(tmp_path)).train.labels) == 9
    with pytest.raises(InputError, match=rf"Wrong checksum: '{archive}' has MD5 {digest}"):
        read_tiny_imagenet(wrong, source(tmp_path))
