"""Tiny ImageNet in its published form, and the digits: prepared, listed, verified and shown."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.prepare import open_prepared

WNIDS = DATASETS["tiny_imagenet"].classes
TINY_TEST = 60


@pytest.fixture
def tiny_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tiny-imagenet-200.zip with two training images a class, the second one grey."""
    archive = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for part, text in texts().items():
            file.writestr(f"tiny-imagenet-200/{part}", text)
        for label, wnid in enumerate(WNIDS):
            for number in range(2):
                path = f"tiny-imagenet-200/train/{wnid}/images/{wnid}_{number}.JPEG"
                file.writestr(path, jpeg(label, grey=number == 1))
        for number in range(TINY_TEST):
            file.writestr(f"tiny-imagenet-200/val/images/val_{number}.JPEG", jpeg(number, grey=False))
    info = DATASETS["tiny_imagenet"]
    small = dataclasses.replace(info, train=2 * len(WNIDS), test=TINY_TEST, checksums={})
    monkeypatch.setitem(DATASETS, "tiny_imagenet", small)
    return archive


def texts() -> dict[str, str]:
    return {
        "wnids.txt": "\n".join(reversed(WNIDS)) + "\n",
        "words.txt": "".join(f"{wnid}\tkind {number}, and so on\n" for number, wnid in enumerate(WNIDS)),
        "val/val_annotations.txt": "".join(
            f"val_{number}.JPEG\t{WNIDS[number]}\t0\t32\t44\t62\n" for number in range(TINY_TEST)
        ),
    }


def jpeg(level: int, grey: bool) -> bytes:
    content = io.BytesIO()
    picture = Image.new("RGB", (64, 64), (level, 255 - level, 40))
    picture.paste((255, 255, 255), (0, 0, 32, 32))
    (picture.convert("L") if grey else picture).save(content, "JPEG", quality=95)
    return content.getvalue()


def listed(cli: Any, data: Path, name: str) -> dict[str, Any]:
    rows = json.loads(cli("data", "list", "--json", "--data-dir", data).out)["data"]
    return next(row for row in rows if row["name"] == name)


def test_tiny_imagenet_from_its_archive(cli: Any, tmp_path: Path, tiny_imagenet: Path) -> None:
    data = tmp_path / "data"
    ended = cli("data", "prepare", "tiny_imagenet", "--from", tiny_imagenet, "--data-dir", data)
    assert "400 training and 60 test images, 64 x 64 x 3, 200 classes" in ended.out
    prepared = open_prepared("tiny_imagenet", data)
    assert prepared.info.classes[:2] == ("kind 0", "kind 1")
    np.testing.assert_array_equal(prepared.train.labels, np.repeat(np.arange(200), 2))
    np.testing.assert_array_equal(prepared.test.labels, np.arange(TINY_TEST))
    colour, grey = prepared.train.gather(np.array([20, 21]))[:, 50, 50].astype(int)
    assert abs(colour - [10, 245, 40]).max() <= 6
    assert grey.min() == grey.max()
    row = listed(cli, data, "tiny_imagenet")
    assert (row["mean"], row["std"]) == ("0.4802 0.4481 0.3975", "0.2770 0.2691 0.2821")


def test_an_unreadable_image_leaves_nothing(cli: Any, tmp_path: Path, tiny_imagenet: Path) -> None:
    name = f"tiny-imagenet-200/val/images/val_{TINY_TEST - 1}.JPEG"
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(tiny_imagenet) as whole, zipfile.ZipFile(broken, "w") as file:
        for member in whole.namelist():
            content = whole.read(member)
            file.writestr(member, content[: len(content) // 2] if member == name else content)
    data = tmp_path / "data"
    message = cli("data", "prepare", "tiny_imagenet", "--from", broken, "--data-dir", data).refusal()
    assert str(broken / name) in message
    assert [path.name for path in data.iterdir()] == [".tiny_imagenet.lock"]


@pytest.mark.parametrize("name", ["stl10", "stl10_unlabeled", "tiny_imagenet"])
def test_a_set_that_is_not_there_says_where_it_is_from(cli: Any, tmp_path: Path, name: str) -> None:
    message = cli("data", "prepare", name, "--data-dir", tmp_path / "data").refusal()
    (download,) = DATASETS[name].downloads
    assert download.file in message
    assert download.url.removesuffix(f"/{download.file}") in message


@pytest.mark.parametrize("part", ["train", "test"])
def test_verifying_names_the_file_that_changed(cli: Any, tmp_path: Path, part: str) -> None:
    data = tmp_path / "data"
    prepared = open_prepared("digits", data)
    assert cli("data", "verify", "digits", "--data-dir", data).code == 0
    start = getattr(prepared, part).layout.data_start
    with open(prepared.folder / f"{part}.beton", "r+b") as file:
        file.seek(start + 1000)
        byte = file.read(1)[0]
        file.seek(start + 1000)
        file.write(bytes([byte ^ 1]))
    message = cli("data", "verify", "digits", "--data-dir", data).refusal()
    assert str(prepared.folder / f"{part}.beton") in message
    assert "SHA-256" in message


def test_showing_a_set(cli: Any, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("data", "show", "digits", "--data-dir", data_dir).out == "digits-train.png\n"
    assert cli("data", "show", "digits", "--data-dir", data_dir, "--split", "test").out == "digits-test.png\n"
    cli("data", "show", "digits", "--data-dir", data_dir, "--per-class", 3, "--out", tmp_path / "new" / "few.png")
    sheets = {}
    for name in ("digits-train.png", "digits-test.png", "new/few.png"):
        with Image.open(tmp_path / name) as sheet:
            sheets[name] = np.asarray(sheet.convert("RGB"))
    assert not np.array_equal(sheets["digits-train.png"], sheets["digits-test.png"])
    assert sheets["new/few.png"].size < sheets["digits-train.png"].size
    assert "Unknown data set 'digit'" in cli("data", "show", "digit", "--data-dir", data_dir).refusal()
    assert ".png" in cli("data", "show", "digits", "--data-dir", data_dir, "--out", "sheet.pdf").refusal()
