"""Originals that are not what they should be: refused in one paragraph that names the file, nothing left behind."""

from __future__ import annotations

import dataclasses
import gzip
import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rt_scale.data.catalogue import DATASETS


def cifar_archive(path: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = 100_000
            archive.addfile(entry, io.BytesIO(np.random.default_rng(0).bytes(entry.size)))
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def prepare_fails(cli: Any, tmp_path: Path, name: str, source: Path) -> str:
    """The refusal; nothing is left of the attempt."""
    data = tmp_path / "data"
    message: str = cli("data", "prepare", name, "--from", source, "--data-dir", data).refusal()
    assert not [path for path in data.rglob("*") if path.is_file() and path.stat().st_size]
    return message


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_archive(cli: Any, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    data = cifar_archive(path)
    path.write_bytes(data[: int(len(data) * share)])
    assert str(path) in prepare_fails(cli, tmp_path, "cifar10", path)


def test_a_wrong_checksum(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    cifar_archive(path)
    message = prepare_fails(cli, tmp_path, "cifar10", path)
    assert str(path) in message
    assert "md5" in message.lower()


def pictures(folder: Path, classes: list[str]) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(folder / name / f"{number}.png")
    return folder


def test_a_folder_with_one_class(cli: Any, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pets", ["cat"])
    message = prepare_fails(cli, tmp_path, "pets", folder)
    assert str(folder) in message
    assert "class" in message


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"no image at all", b"\x89PNG\r\n\x1a\n cut short", b"\xff\xd8\xff\xe0"]
)
def test_an_image_that_cannot_be_read_is_named(cli: Any, tmp_path: Path, content: bytes) -> None:
    folder = pictures(tmp_path / "pets", ["cat", "dog"])
    (folder / "dog" / "3.png").write_bytes(content)
    message = prepare_fails(cli, tmp_path, "pets", folder)
    assert str(folder / "dog" / "3.png") in message
    assert "BytesIO" not in message


def test_a_class_with_one_image_is_named(cli: Any, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pets", ["cat", "dog"])
    for number in range(1, 5):
        (folder / "dog" / f"{number}.png").unlink()
    message = prepare_fails(cli, tmp_path, "pets", folder)
    assert "single image" in message
    assert "'dog'" in message


@pytest.mark.parametrize("archived", [False, True])
def test_splits_under_other_names_are_refused_with_what_is_expected(cli: Any, tmp_path: Path, archived: bool) -> None:
    for part in ("first", "second"):
        pictures(tmp_path / "pets" / part, ["cat", "dog"])
    source = (
        Path(shutil.make_archive(str(tmp_path / "pets"), "tar", tmp_path / "pets")) if archived else tmp_path / "pets"
    )
    message = prepare_fails(cli, tmp_path, "pets", source)
    assert "'first', 'second' both have 'cat', 'dog'" in message
    assert "train/cat/1.png" in message


def test_an_archive_of_links_out_of_it(cli: Any, tmp_path: Path) -> None:
    pictures(tmp_path / "pets", ["cat", "dog"])
    for path in (tmp_path / "pets").glob("*/*.png"):
        path.rename(tmp_path / f"{path.parent.name}{path.name}")
        path.symlink_to(tmp_path / f"{path.parent.name}{path.name}")
    archive = Path(shutil.make_archive(str(tmp_path / "pets"), "gztar", tmp_path / "pets"))
    message = prepare_fails(cli, tmp_path, "pets", archive)
    assert "holds no images" in message
    assert "no file in the archive" in message
    assert "7 more" in message


def test_a_label_out_of_range(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = dataclasses.replace(DATASETS["mnist"], train=20, test=20, checksums={})
    monkeypatch.setitem(DATASETS, "mnist", info)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part in ("train", "t10k"):
        labels = np.arange(20, dtype=np.uint8) % 10
        labels[7] = 10 if part == "train" else 7
        images = np.zeros((20, 28, 28), np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            header = np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes()
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))
    message = prepare_fails(cli, tmp_path, "mnist", folder)
    assert "Label 10 among the training images of 'mnist' is out of range" in message


def parts(folder: Path, images: int = 300) -> Path:
    """Six deflated parts of CIFAR-5M; level 0, so that what is overwritten is nothing deflate knows."""
    folder.mkdir()
    for number in range(6):
        generator = np.random.default_rng(number)
        arrays = {"X": generator.integers(0, 256, (images, 32, 32, 3), np.uint8), "Y": np.arange(images) % 10}
        with zipfile.ZipFile(folder / f"part{number}.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=0) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.save(member, array)
    return folder


def test_a_corrupt_stream_in_a_part(cli: Any, tmp_path: Path) -> None:
    path = parts(tmp_path / "parts") / "part3.npz"
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 70_000)
    message = prepare_fails(cli, tmp_path, "cifar5m", path.parent)
    assert f"'{path}' is damaged: images 0 to 299 of 300 cannot be read (from byte 0 of its X)" in message


def test_parts_that_are_not_there(cli: Any, tmp_path: Path) -> None:
    folder = parts(tmp_path / "parts", images=2)
    (folder / "part0.npz").unlink()
    (folder / "part5.npz").unlink()
    assert "part0.npz, part5.npz missing" in prepare_fails(cli, tmp_path, "cifar5m", folder)


def test_a_label_that_is_no_class_in_a_part(cli: Any, tmp_path: Path) -> None:
    folder = parts(tmp_path / "parts", images=20)
    np.savez(folder / "part4.npz", X=np.zeros((20, 32, 32, 3), np.uint8), Y=np.arange(20) // 18 * 10)
    message = prepare_fails(cli, tmp_path, "cifar5m", folder)
    assert f"Cannot read '{folder}/part4.npz': label 10 of image 18 " in message


def test_too_little_disk_for_a_set(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parts(tmp_path / "parts", images=20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 1000))  # type: ignore[attr-defined]
    message = prepare_fails(cli, tmp_path, "cifar5m", folder)
    assert "Disk full" in message
    assert "bytes are needed, 1,000 are free" in message
