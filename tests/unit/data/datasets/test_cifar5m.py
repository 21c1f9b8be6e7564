from __future__ import annotations

import io
import math
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rt_scale.data.datasets import cifar5m
from rt_scale.data.datasets.base import Source
from rt_scale.data.datasets.cifar5m import CIFAR5M, read_npz
from rt_scale.data.prepare import prepare, verify_prepared
from rt_scale.spec.errors import InputError

SIZES = (7, 3, 12, 1, 5, 4)
Arrays = dict[str, np.ndarray]
MakeSource = Callable[..., Source]
Refusal = Callable[[Path], str]


def arrays(n: int, seed: int) -> Arrays:
    """Images of few values, which deflate codes instead of storing them as they are."""
    generator = np.random.default_rng(seed)
    return {"X": generator.integers(0, 4, (n, 32, 32, 3), np.uint8), "Y": generator.integers(0, 10, n)}


def write_parts(folder: Path, save: Callable[..., None] = np.savez) -> list[Arrays]:
    folder.mkdir()
    parts = [arrays(n, seed) for seed, n in enumerate(SIZES)]
    for number, part in enumerate(parts):
        save(folder / f"part{number}.npz", **part)
    return parts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cifar5m, "CHUNK", 4)
    write_parts(tmp_path / "parts", np.savez_compressed)
    return tmp_path / "parts"


@pytest.fixture
def refusal(source: MakeSource) -> Callable[[Path], str]:
    """What is said of the parts in a folder, when they are opened or when their images are read."""

    def read_all(folder: Path) -> None:
        original = read_npz(CIFAR5M, source(folder))
        for split in (original.train, original.test):
            list(split.chunks())

    def say(folder: Path) -> str:
        with pytest.raises(InputError) as caught:
            read_all(folder)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return say


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_five_parts_are_to_train_on_and_the_sixth_is_held_out(
    source: MakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None]
) -> None:
    monkeypatch.setattr(cifar5m, "CHUNK", 4)
    parts = write_parts(tmp_path / "parts", save)
    original = read_npz(CIFAR5M, source(tmp_path / "parts"))
    for split, expected in ((original.train, parts[:5]), (original.test, parts[5:])):
        np.testing.assert_array_equal(split.labels, np.concatenate([part["Y"] for part in expected]))
        assert split.labels.dtype == np.int64
        chunks = list(split.chunks())
        assert max(map(len, chunks)) == 4
        np.testing.assert_array_equal(np.concatenate(chunks), np.concatenate([part["X"] for part in expected]))
    assert (original.info.train, original.info.test) == (28, 4)


def test_a_pass_may_be_repeated(source: MakeSource, folder: Path) -> None:
    split = read_npz(CIFAR5M, source(folder)).train
    first, second = (np.concatenate(list(split.chunks())) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_prepared_are_all_images_with_measured_statistics_and_the_parts_checksums(folder: Path, tmp_path: Path) -> None:
    prepare("cifar5m", tmp_path / "data", folder)
    prepared = verify_prepared("cifar5m", tmp_path / "data")
    parts = [arrays(n, seed) for seed, n in enumerate(SIZES)]
    pixels = np.concatenate([part["X"] for part in parts[:5]])
    np.testing.assert_array_equal(prepared.train.read_all(), pixels)
    np.testing.assert_array_equal(prepared.test.read_all(), parts[5]["X"])
    np.testing.assert_allclose(prepared.info.mean, (pixels / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(prepared.info.std, (pixels / 255).std((0, 1, 2)), rtol=1e-12)
    for number, part in enumerate(parts):
        sums = []
        for name in "XY":
            content = io.BytesIO()
            np.save(content, part[name])
            sums.append(f"{name} {zlib.crc32(content.getvalue()):08x}")
        expected = f"{SIZES[number]} images, CRC-32 {', '.join(sums)}"
        assert prepared.notes[f"part{number}.npz"] == expected


def test_the_callback_counts_images_over_all_parts(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepare("cifar5m", tmp_path / "data", folder, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 32) for done in (4, 7, 10, 14, 18, 22, 23, 27, 28, 32)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_is_that_of_chunks_not_of_a_part(
    source: MakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None]
) -> None:
    monkeypatch.setattr(cifar5m, "CHUNK", 256)
    write_parts(tmp_path / "parts")
    samples = 10_000
    save(tmp_path / "parts" / "part2.npz", X=np.zeros((samples, 32, 32, 3), np.uint8), Y=np.zeros(samples, int))
    tracemalloc.start()
    try:
        seen = sum(map(len, read_npz(CIFAR5M, source(tmp_path / "parts")).train.chunks()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == sum(SIZES[:5]) - SIZES[2] + samples
    assert peak < samples * 3072 / 4


@pytest.mark.parametrize("kind", [np.uint8, np.int32, ">i8"])
def test_labels_of_any_integer_type(source: MakeSource, folder: Path, kind: str | type) -> None:
    part = arrays(SIZES[1], 1)
    np.savez(folder / "part1.npz", X=part["X"], Y=part["Y"].astype(kind))
    np.testing.assert_array_equal(read_npz(CIFAR5M, source(folder)).train.labels[7:10], part["Y"])


def test_missing_parts_are_all_named(refusal: Refusal, folder: Path) -> None:
    assert CIFAR5M.locate(folder) == folder
    for number in (1, 4):
        (folder / f"part{number}.npz").unlink()
    assert CIFAR5M.locate(folder) is None
    assert "part1.npz, part4.npz missing" in refusal(folder)


GOOD = arrays(5, 9)
BAD_PARTS = [
    ({"X": GOOD["X"][:, :16, :16], "Y": GOOD["Y"]}, r"its X is uint8 (5, 16, 16, 3), expected is uint8 (n, 32, 32, 3)"),
    ({"X": GOOD["X"].reshape(5, 3072), "Y": GOOD["Y"]}, "its X is uint8 (5, 3072)"),
    ({"X": GOOD["X"].astype(np.float32), "Y": GOOD["Y"]}, "its X is float32"),
    ({"X": GOOD["X"][:0], "Y": GOOD["Y"][:0]}, "its X is uint8 (0, 32, 32, 3)"),
    ({"X": np.asfortranarray(GOOD["X"]), "Y": GOOD["Y"]}, "its X.npy is not a plain array"),
    ({"X": np.array(None), "Y": GOOD["Y"]}, "its X.npy is not a plain array of object"),
    ({"X": GOOD["X"], "Y": GOOD["Y"][:4]}, "its Y is int64 (4,), expected is one integer for each of 5 images"),
    ({"X": GOOD["X"], "Y": GOOD["Y"].astype(float)}, "its Y is float64 (5,)"),
    ({"X": GOOD["X"], "Y": GOOD["Y"][:, None]}, "its Y is int64 (5, 1)"),
    ({"X": GOOD["X"], "Y": np.array([0, 9, 3, 10, 11])}, "label 10 of image 3 (of 5, from 0) is none of its 10"),
    ({"X": GOOD["X"], "Y": np.array([0, 9, -1, 9, 0])}, "label -1 of image 2"),
    ({"X": GOOD["X"]}, "no item named 'Y.npy'"),
    ({"images": GOOD["X"], "Y": GOOD["Y"]}, "no item named 'X.npy'"),
]


@pytest.mark.parametrize("number", [3, 5])
@pytest.mark.parametrize(("content", "reason"), BAD_PARTS)
def test_a_part_that_is_another_thing_is_named(
    refusal: Refusal, folder: Path, content: Arrays, reason: str, number: int
) -> None:
    np.savez(folder / f"part{number}.npz", **content)
    message = refusal(folder)
    assert str(folder / f"part{number}.npz") in message
    assert reason in message
    assert f"https://storage.googleapis.com/gresearch/cifar5m/part{number}.npz" in message


@pytest.mark.parametrize(
    ("start", "more", "reason"),
    [
        (b"\x93NUMPY\x01\x00", b"0" * 9, "its X.npy is not a plain array"),
        (b"\x93NUMPY\x01\x00", b"", None),
        (b"\x93NUMPY\x03\x00", b"", "numpy's format (3, 0)"),
        (b"no array", b"", "magic string is not correct"),
    ],
)
def test_a_member_must_be_what_its_header_says(
    refusal: Refusal, source: MakeSource, folder: Path, start: bytes, more: bytes, reason: str | None
) -> None:
    with zipfile.ZipFile(folder / "part3.npz", "w") as archive:
        for name, array in GOOD.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            content = buffer.getvalue()
            archive.writestr(f"{name}.npy", start + content[8:] + more if name == "X" else content)
    if reason is None:
        assert len(read_npz(CIFAR5M, source(folder)).train.labels) == 32
    else:
        assert reason in refusal(folder)


def spoil(path: Path, position: float, content: bytes) -> None:
    """Overwrite bytes of X's data at a share of its length."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("X.npy")
    start = member.header_offset + 100
    with open(path, "r+b") as file:
        file.seek(start + math.floor(position * member.compress_size))
        file.write(content)


def test_a_corrupt_deflate_stream_is_named_with_its_place(refusal: Refusal, folder: Path) -> None:
    path, part = folder / "part3.npz", arrays(400, 3)
    # Level 0: a block at least every 65,535 bytes, of which 0xff begins none.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=0) as archive:
        for name, array in part.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.save(member, array)
    spoil(path, 0.5, b"\xff" * 70_000)
    message = refusal(folder)
    assert f"'{path}' is damaged: images" in message
    place = int(message.split("images ")[1].split(" ")[0])
    assert 180 <= place <= 224
    assert f"images {place} to {place + 3} of 400 cannot be read (from byte {place * 3072:,} of its X)" in message


def test_changed_bytes_are_found_by_the_archives_own_checksum(refusal: Refusal, folder: Path) -> None:
    np.savez(folder / "part5.npz", **arrays(9, 5))
    spoil(folder / "part5.npz", 0.5, b"changed")
    message = refusal(folder)
    assert "part5.npz' is damaged: images 8 to 8 of 9 cannot be read" in message
    assert "Bad CRC-32 for file 'X.npy'" in message


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_cut_part_is_named(refusal: Refusal, folder: Path, share: float) -> None:
    path = folder / "part2.npz"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert f"Cannot read '{path}'" in refusal(folder)


def test_images_that_end_before_their_header_says(refusal: Refusal, folder: Path) -> None:
    """Checksum and data agree; header and directory promise an image more."""
    path = folder / "part3.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in GOOD.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue()[: -3072 if name == "X" else None])
    content = bytearray(path.read_bytes())
    size = content.index(b"PK\x01\x02") + 24
    content[size : size + 4] = (int.from_bytes(content[size : size + 4], "little") + 3072).to_bytes(4, "little")
    path.write_bytes(content)
    assert "images 4 to 4 of 5 cannot be read (from byte 12,288 of its X): it ends 3,072 bytes early" in refusal(folder)
