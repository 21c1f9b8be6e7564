"""From an opened image of any kind to one picture, upright and opaque; and what was changed for that."""

from __future__ import annotations

from PIL import ExifTags, Image

GREY = frozenset(["1", "L", "LA"])
"""Modes of PIL without colour."""

CHANGES = {
    "orientation": "turned or mirrored as EXIF says",
    "transparency": "composed on white",
    "several pictures": "of several frames or pages, of which the first is taken",
    "16 bits a channel": "read at 8 bits",
    "CMYK": "converted to red, green and blue without a colour profile",
    "grey": "without colour among others that have it",
}
"""What may be changed in an image, with how that is said behind a number of images."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the value of EXIF's orientation, as ``PIL.ImageOps.exif_transpose`` has it. That writes the other tags back, too,
and fails on those that are odd."""


def plain(image: Image.Image, channels: int) -> tuple[Image.Image, list[str]]:
    """The first picture of an opened image, in mode L or RGB, and which of ``CHANGES`` were made.

    An image that needs none of them keeps its pixels as they are.

    Args:
        image: opened, not loaded yet.
        channels: 1 for grey, 3 for colour.
    """
    made = {"several pictures": getattr(image, "is_animated", False), "16 bits a channel": _is_deep(image)}
    before = _orientation(image)
    image.load()  # turns TIFF upright, and reads what PNG has behind its pixels
    turn = _orientation(image)
    made["orientation"] = before in _TURNS or turn in _TURNS
    made |= {"CMYK": image.mode == "CMYK", "grey": channels == 3 and image.mode in GREY}
    picture = image.transpose(_TURNS[turn]) if turn in _TURNS else image
    if picture.has_transparency_data or picture.mode == "P":
        picture = picture.convert("RGBA")
        lowest, _ = picture.getchannel("A").getextrema()
        made["transparency"] = lowest != 255
        if made["transparency"]:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("L" if channels == 1 else "RGB"), [name for name in CHANGES if made.get(name)]


def unidentified(content: bytes) -> str:
    """Why bytes that PIL does not know are no image, as far as they tell."""
    if not content:
        return "it is empty (0 bytes)"
    start = content[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "it is a web page (HTML), not an image"
    return f"it is no image of a known format; it begins with {content[:12]!r}"


def _is_deep(image: Image.Image) -> bool:
    """Whether colours have 16 bits, of which PIL keeps the upper 8."""
    return any(";16" in str(part[3]) for part in getattr(image, "tile", []))


def _orientation(image: Image.Image) -> int:
    """The value of EXIF's orientation; 1, which is upright, where there is none."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # what is odd in EXIF raises nearly anything, and says nothing about the pixels
        return 1
    return value if isinstance(value, int) else 1
