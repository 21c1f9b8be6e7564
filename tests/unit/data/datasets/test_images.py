from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from rt_scale.data.datasets.images import chunk_length, plain, scaled, scaling_note, workers
from rt_scale.spec.errors import InputError


def test_scaling_down_is_antialiased() -> None:
    """Stripes finer than the target's pixels become even grey; picking pixels would leave black or white."""
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(scaled(Image.fromarray(stripes), 24)).astype(int)
    assert small.shape == (24, 24, 3)
    assert abs(small[:, 2:-2] - 127).max() <= 3


def test_oblong_images_are_cropped_in_the_middle() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, :10] = pixels[:, 20:] = 255
    np.testing.assert_array_equal(np.asarray(scaled(Image.fromarray(pixels), 10)), pixels[:, 10:20])


def test_the_note_says_what_was_done() -> None:
    assert scaling_note(None) == {}
    assert "32 x 32" in scaling_note(32)["resized"]
    assert "antialiased" in scaling_note(32)["resized"]


def test_sizes_are_positive() -> None:
    with pytest.raises(InputError, match="to -3 pixels"):
        scaling_note(-3)


def test_a_chunk_is_bounded_in_images_and_in_bytes() -> None:
    assert chunk_length(8, 1) == 4096
    assert chunk_length(96, 3) * 96 * 96 * 3 <= 1 << 24
    assert chunk_length(96, 1) > chunk_length(96, 3)
    assert chunk_length(10_000, 3) == 1


def test_threads_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert workers() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert workers() == 1


ORIENTATION = 0x0112
WHITE = (255, 255, 255)


def _picture(height: int = 4, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _stored(image: Image.Image, kind: str, **how: object) -> Image.Image:
    """The image as it comes back from a file."""
    file = io.BytesIO()
    image.save(file, kind, **how)
    return Image.open(file)


def _plain(image: Image.Image, channels: int = 3) -> tuple[np.ndarray, list[str]]:
    picture, changes = plain(image, channels)
    assert picture.mode == ("L" if channels == 1 else "RGB")
    return np.asarray(picture), changes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_applied_once(kind: str, value: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    how = {"lossless": True} if kind == "WEBP" else {}
    stored = Image.fromarray(_picture())
    expected = ImageOps.exif_transpose(_stored(stored, kind, exif=exif, **how))
    pixels, changes = _plain(_stored(stored, kind, exif=exif, **how))
    np.testing.assert_array_equal(pixels, np.asarray(expected.convert("RGB")))
    assert changes == ([] if value == 1 else ["orientation"])
    assert pixels.shape == ((4, 6, 3) if value < 5 else (6, 4, 3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0"])
def test_exif_that_cannot_be_read_says_nothing(kind: str, exif: bytes) -> None:
    stored = Image.fromarray(_picture())
    pixels, changes = _plain(_stored(stored, kind, exif=exif))
    np.testing.assert_array_equal(pixels, np.asarray(_stored(stored, kind)))
    assert changes == []


def _transparent(mode: str) -> Image.Image:
    """Left half opaque and dark, right half transparent."""
    alpha = Image.new("L", (4, 2), 0)
    alpha.paste(255, (0, 0, 2, 2))
    image = Image.new("RGB", (4, 2), (10, 20, 30)).convert(mode.removesuffix("A"))
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_shows_white(mode: str) -> None:
    pixels, changes = _plain(_stored(_transparent(mode), "PNG"))
    np.testing.assert_array_equal(pixels[:, 2:], np.full((2, 2, 3), 255))
    np.testing.assert_array_equal(
        pixels[:, :2], np.asarray(Image.new("RGB", (2, 2), (10, 20, 30)).convert(mode).convert("RGB"))
    )
    assert "transparency" in changes


def test_half_transparent_is_half_white() -> None:
    pixels, _ = _plain(_stored(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG"))
    assert abs(int(pixels[0, 0, 0]) - 127) <= 1


def test_grey_stays_grey_on_white() -> None:
    pixels, changes = _plain(_stored(_transparent("LA"), "PNG"), channels=1)
    assert pixels[:, 2:].min() == 255
    assert changes == ["transparency"]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_shows_white(kind: str) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([9, 9, 9, 200, 0, 0])
    image.paste(0, (0, 0, 2, 2))
    pixels, changes = _plain(_stored(image, kind, transparency=0))
    np.testing.assert_array_equal(pixels[:, :2], np.full((2, 2, 3), 255))
    np.testing.assert_array_equal(pixels[:, 2:], np.full((2, 2, 3), (200, 0, 0)))
    assert changes == ["transparency"]


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (9, 9, 9)), ("L", 9)])
def test_a_transparent_colour_without_a_palette_shows_white(mode: str, colour: object) -> None:
    image = Image.new(mode, (4, 2), 50 if mode == "L" else (50, 60, 70))
    image.paste(colour, (0, 0, 2, 2))  # type: ignore[arg-type]
    pixels, changes = _plain(_stored(image, "PNG", transparency=colour))
    np.testing.assert_array_equal(pixels[:, :2], np.full((2, 2, 3), 255))
    assert pixels[:, 2:].max() <= 70
    assert "transparency" in changes


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("RGB", 3), ("L", 3), ("L", 1), ("1", 1), ("LA", 1), ("LA", 3), ("RGBA", 3), ("P", 3), ("CMYK", 3), ("YCbCr", 3)],
)
def test_upright_opaque_images_keep_the_pixels_that_they_had(mode: str, channels: int) -> None:
    """Sets that were prepared before orientation and transparency were looked at keep their checksums."""
    image = Image.fromarray(_picture()).convert("L" if mode in ("1", "L", "LA") else "RGB").convert(mode)
    before = image.convert("RGBA") if mode == "P" else image
    expected = np.asarray(before.convert("L" if channels == 1 else "RGB"))
    pixels, changes = _plain(_stored(image, "TIFF") if mode != "YCbCr" else image, channels)
    np.testing.assert_array_equal(pixels, expected)
    assert not {"orientation", "transparency"} & {*changes}
    assert ("grey" in changes) is (channels == 3 and mode in ("L", "LA", "1"))
    assert ("CMYK" in changes) is (mode == "CMYK")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_pictures_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    how = {"lossless": True} if kind == "WEBP" else {}
    pixels, changes = _plain(_stored(frames[0], kind, save_all=True, append_images=frames[1:], **how))
    np.testing.assert_array_equal(pixels, np.asarray(frames[0]))
    assert changes == ["several pictures"]


def test_colours_of_16_bits_are_told() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    wide = _picture().astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in wide.astype(">u2"))
    header = struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    pixels, changes = _plain(Image.open(io.BytesIO(file)))
    np.testing.assert_array_equal(pixels, _picture())
    assert changes == ["16 bits a channel"]
