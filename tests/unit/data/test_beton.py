from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rt_scale.data import beton as layout
from rt_scale.data.beton import Beton, open_beton, verify, write
from rt_scale.spec.errors import InputError, RunError

MakeBeton = Callable[..., tuple[Beton, np.ndarray]]
SMALL = (4, 4, 3)


@pytest.mark.parametrize(
    ("n", "shape", "pages"),
    [
        (1, (1, 1, 1), 1),
        (10, (8, 8, 1), 1),
        (5, (512, 512, 3), 3),
        (6, (512, 512, 3), 3),
        (2, (1024, 1024, 3), 2),
    ],
)
def test_what_was_written_is_read(make_beton: MakeBeton, n: int, shape: tuple[int, int, int], pages: int) -> None:
    size = 2 * layout.MIN_PAGE if shape[0] == 1024 else layout.MIN_PAGE
    beton, images = make_beton(n, shape, page=size)
    assert beton.layout.pages == pages
    assert (beton.samples, beton.image_shape) == (n, shape)
    np.testing.assert_array_equal(beton.read_all(), images)
    np.testing.assert_array_equal(beton.labels, np.arange(n) % 7)
    assert beton.labels.dtype == np.int64
    assert [each.name for each in beton.path.parent.iterdir()] == [beton.path.name]


def test_gather_takes_any_order_and_repeats(make_beton: MakeBeton) -> None:
    beton, images = make_beton(5, (512, 512, 3), page=layout.MIN_PAGE)
    index = np.array([4, 0, 4, 2])
    np.testing.assert_array_equal(beton.gather(index), images[index])
    assert beton.gather(np.array([], np.int64)).shape == (0, 512, 512, 3)


@pytest.mark.parametrize("index", [-1, 5, 10**9])
def test_gather_refuses_what_is_not_there(make_beton: MakeBeton, index: int) -> None:
    beton, _ = make_beton(5)
    with pytest.raises(IndexError, match=r"outside \[0, 5\)"):
        beton.gather(np.array([0, index]))


def test_chunking_does_not_show_in_the_file(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 1000, 700, 1), np.uint8)
    labels = np.arange(7)
    digests = [
        write(
            tmp_path / f"{step}.beton",
            np.split(images, range(step, 7, step)),
            labels,
            image_shape=(1000, 700, 1),
        )
        for step in (1, 3, 7)
    ]
    assert len(set(digests)) == 1


def test_the_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    digest = write(path, [np.ones((3, *SMALL), np.uint8)], np.arange(3), image_shape=SMALL)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == verify(path)


def test_progress_counts_images(tmp_path: Path) -> None:
    seen: list[int] = []
    chunks = [np.zeros((2, *SMALL), np.uint8), np.zeros((3, *SMALL), np.uint8)]
    write(tmp_path / "a.beton", chunks, np.zeros(5), image_shape=SMALL, progress=seen.append)
    assert seen == [2, 5]


def test_the_page_suits_the_set() -> None:
    assert layout.page_size(360, 64) == layout.MIN_PAGE
    assert layout.page_size(1000, 3072) == 4 << 20
    assert layout.page_size(50_000, 3072) == layout.DEFAULT_PAGE
    assert layout.page_size(1000, 9 << 20) == 16 << 20


@pytest.mark.parametrize(
    ("count", "labels", "shape", "message"),
    [
        (3, [0, 1], SMALL, "3 images for 2 labels"),
        (1, [0, 1], SMALL, "1 images for 2 labels"),
        (0, [], SMALL, "Nothing to write"),
        (1, [0], (0, 4, 3), "Nothing to write"),
        (2, [0, -1], SMALL, "Label -1"),
        (2, [0, 1], (4, 3, 4), "expected uint8"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, count: int, labels: list[int], shape: tuple[int, int, int], message: str
) -> None:
    images = np.zeros((count, *SMALL), np.uint8)
    with pytest.raises(InputError, match=message):
        write(tmp_path / "a.beton", [images], np.array(labels, np.int64), image_shape=shape)
    assert not list(tmp_path.iterdir())


def test_pixels_of_another_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float32"):
        write(tmp_path / "a.beton", [np.zeros((1, *SMALL), np.float32)], np.zeros(1), image_shape=SMALL)


def test_a_failing_source_leaves_nothing(tmp_path: Path) -> None:
    def images() -> Iterator[np.ndarray]:
        yield np.zeros((1, *SMALL), np.uint8)
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        write(tmp_path / "a.beton", images(), np.zeros(2), image_shape=SMALL)
    assert not list(tmp_path.iterdir())


def test_a_disk_too_small_is_found_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InputError, match=r"Disk full.*1 are free.*--data-dir"):
        write(tmp_path / "a.beton", [np.zeros((1, *SMALL), np.uint8)], np.zeros(1), image_shape=SMALL)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_a_failure_that_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"Disk full.*No space left on device"):
        write(tmp_path / "a.beton", [np.zeros((1, *SMALL), np.uint8)], np.zeros(1), image_shape=SMALL)
    assert not list(tmp_path.iterdir())


def test_a_real_limit_on_file_size_is_reported_as_a_full_disk(tmp_path: Path) -> None:
    code = f"""
import resource, numpy as np
from pathlib import Path
from rt_scale.data.beton import write
from rt_scale.spec.errors import RunError
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
try:
    images = np.zeros((9, 4, 4, 3), np.uint8)
    write(Path({str(tmp_path)!r}) / "a.beton", [images], np.zeros(9), image_shape=(4, 4, 3))
except RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Disk full" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Cannot write .*file/a\.beton.*RT_SCALE_DATA"):
        write(tmp_path / "file" / "a.beton", [np.zeros((1, *SMALL), np.uint8)], np.zeros(1), image_shape=SMALL)


def _patched(offset: int, data: bytes) -> Callable[[Path], None]:
    def patch(path: Path) -> None:
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(data)

    return patch


def _extended(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


_ODD = "do not begin as rt-scale writes it"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "No such file"),
        (lambda path: os.truncate(path, 0), _ODD),
        (lambda path: os.truncate(path, 100), _ODD),
        (lambda path: os.truncate(path, path.stat().st_size - 1), _ODD),
        (_extended, _ODD),
        (_patched(0, b"\0" * layout.HEADER.itemsize), _ODD),
        (_patched(0, b"\3"), _ODD),
        (_patched(2, b"\2"), _ODD),
        (_patched(4, b"\1"), _ODD),
        (_patched(8, b"\0"), _ODD),
        (_patched(8, b"\x09"), _ODD),
        (_patched(16, b"\0" * 8), _ODD),
        (_patched(16, b"\1"), _ODD),
        (_patched(layout.HEADER.itemsize, b"\2"), _ODD),
        (_patched(layout.HEADER.itemsize + 1041 + 1, b"x"), _ODD),
        (_patched(layout.HEADER.itemsize + 17, b"\xff" * 8), _ODD),
        (_patched(layout.RECORDS_START, b"\x07"), "image pointers"),
    ],
)
def test_a_damaged_file_is_not_opened(make_beton: MakeBeton, damage: Callable[[Path], None], message: str) -> None:
    beton, _ = make_beton(8)
    damage(beton.path)
    for action in (open_beton, verify):
        with pytest.raises(InputError, match=message) as caught:
            action(beton.path)
        assert str(beton.path) in str(caught.value)
        assert "rt-scale data prepare" in str(caught.value)


def test_a_changed_pixel_shows_in_the_checksum(make_beton: MakeBeton) -> None:
    beton, _ = make_beton(8)
    before = verify(beton.path)
    _patched(beton.layout.data_start, bytes([beton.read_all().ravel()[0] ^ 1]))(beton.path)
    assert verify(beton.path) != before
