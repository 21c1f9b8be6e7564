"""Folders of images of all sorts become data sets.

The bundled digits, saved as class folders, always; and every archive or folder of class folders in the folder
that the environment variable RT_SCALE_TEST_DATA names. Without the variable only the digits are tested.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from rt_scale.data.prepare import Prepared, prepare, verify_prepared
from rt_scale.data.resident import ResidentLoader

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
