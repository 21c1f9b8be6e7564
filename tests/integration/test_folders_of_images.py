"""Folders of images of all sorts become data sets.

The bundled digits, saved as class folders, always; and every archive or folder of class folders in the folder
that the environment variable RT_SCALE_TEST_DATA names. Without the variable only the digits are tested.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.data.prepare import Prepared, open_prepared, prepare, verify_prepared

GIVEN = os.environ.get("RT_SCALE_TEST_DATA")
ARCHIVES = sorted(Path(GIVEN).glob("*.tar*")) if GIVEN else []


def _digits(root: Path) -> Path:
    """The bundled digits as a tar archive of class folders of PNG files."""
    bunch = load_digits()
    with tarfile.open(root / "digits.tar.xz", "w:xz") as archive:
        for number, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
            content = io.BytesIO()
            Image.fromarray((image * 15).astype(np.uint8)).save(content, "png")
            part = "test" if number % 5 == 0 else "train"
            member = tarfile.TarInfo(f"digits/{part}/{label}/{number:04}.png")
            member.size = content.tell()
            content.seek(0)
            archive.addfile(member, content)
    return root / "digits.tar.xz"


@pytest.fixture(params=[None, *ARCHIVES], ids=["digits", *(path.name for path in ARCHIVES)])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    given: Path | None = request.param
    return _digits(tmp_path) if given is None else given


def _expected(archive: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Class and contents of every image of each part, in order of their paths."""
    parts: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "test": []}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():
                *_, part, label, _ = member.name.split("/")
                content = tar.extractfile(member)
                assert content is not None
                parts[part].append((member.name, label, content.read()))
    return {part: [(label, content) for _, label, content in sorted(each)] for part, each in parts.items()}


def test_a_prepared_archive_holds_its_images(archive: Path, tmp_path: Path) -> None:
    prepared = prepare("images", tmp_path / "data", archive)
    _assert_same(prepared, _expected(archive))
    assert verify_prepared("images", tmp_path / "data").sha256 == prepared.sha256
    loader = ResidentLoader(prepared.train, batch_size=1000, seed=0, device="cpu")
    seen = np.concatenate([batch.index.numpy() for batch in loader.epoch(0)])
    np.testing.assert_array_equal(np.sort(seen), np.arange(prepared.info.train))


def _assert_same(prepared: Prepared, expected: dict[str, list[tuple[str, bytes]]]) -> None:
    mode = "L" if prepared.info.channels == 1 else "RGB"
    for beton, images in ((prepared.train, expected["train"]), (prepared.test, expected["test"])):
        assert [prepared.info.classes[label] for label in beton.labels] == [label for label, _ in images]
        chosen = np.random.default_rng(0).choice(len(images), 200, replace=False)
        for position, pixels in zip(chosen, beton.gather(chosen), strict=True):
            original = Image.open(io.BytesIO(images[position][1])).convert(mode)
            np.testing.assert_array_equal(pixels, np.asarray(original).reshape(pixels.shape))


def _photographs(root: Path) -> Path:
    """As they come from phones, the web and macOS: turned, transparent, linked, twice, and with odd names."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for part, count in (("Train", 4), ("valid", 2)):
        for label in ("caf\u00e9" if part == "Train" else "cafe\u0301", "dog"):
            folder = root / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 200, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    dogs = root / "Train" / "dog"
    Image.new("RGB", (8, 8), "navy").save(dogs / "turned.jpg", exif=turned)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(dogs / "clear.png")
    Image.new("L", (8, 8), 100).save(dogs / os.fsdecode(b"gr\xfcn.png"))
    (dogs / "again.png").symlink_to("0.png")
    (dogs / "gone.png").symlink_to("/nowhere/gone.png")
    (dogs / "around").symlink_to("..")
    (dogs / "notes.txt").write_text("hello")
    return root


@pytest.mark.parametrize("archived", [False, True])
def test_odd_photographs_are_prepared_and_all_of_it_is_told(cli: Any, tmp_path: Path, archived: bool) -> None:
    source = _photographs(tmp_path / "photographs")
    if archived:
        with tarfile.open(tmp_path / "photographs.tar.gz", "w:gz") as archive:
            archive.add(source, arcname=".")
        source = tmp_path / "photographs.tar.gz"
    data = tmp_path / "data"
    ended = cli("data", "prepare", "photographs", "--from", source, "--data-dir", data)
    assert ended.code == 0, ended.err
    for told in (
        "12 training and 4 test images", "classes: caf\u00e9, dog\n", "Train/ and valid/ (validation images",
        "orientation: 1 image ", "transparency: 1 image ", "grey: 1 image ", "left out: 1 file ",
        "paths left out: 2, 'Train/dog/around' (a link to '", "'Train/dog/gone.png' (a link to '/nowhere/gone.png'",
    ):  # fmt: skip
        assert told in ended.out
    prepared = open_prepared("photographs", data)
    assert prepared.info.classes == ("caf\u00e9", "dog")
    pixels = prepared.train.read_all()
    assert sum(image.min() == 255 for image in pixels) == 1  # what was transparent is white
    assert cli("data", "show", "photographs", "--data-dir", data, "--out", tmp_path / "sheet.png").code == 0
    assert cli("data", "verify", "photographs", "--data-dir", data).code == 0


def test_another_set_of_the_same_name_needs_to_be_meant(cli: Any, tmp_path: Path) -> None:
    source, data = _photographs(tmp_path / "photographs"), tmp_path / "data"
    first = ("data", "prepare", "mine", "--from", source, "--data-dir", data)
    out = cli(*first).out
    assert cli(*first).out == out
    message = cli(*first, "--size", 4).refusal()
    assert "its size is the default, not 4" in message
    assert "--replace" in message
    assert open_prepared("mine", data).info.size == 8
    assert cli(*first, "--size", 4, "--replace").code == 0
    assert open_prepared("mine", data).info.size == 4
