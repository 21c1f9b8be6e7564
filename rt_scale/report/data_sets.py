"""The table of data sets, and a contact sheet of one: samples of every class in one picture."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rt_scale.data.beton import Beton
from rt_scale.data.catalogue import DATASETS
from rt_scale.data.meta import DataInfo
from rt_scale.data.prepare import list_prepared
from rt_scale.spec.errors import InputError, counted
from rt_scale.spec.grid import grouped
from rt_scale.spec.run import stream
from rt_scale.system.files import replace_file


def data_rows(data_dir: Path) -> list[dict[str, Any]]:
    """One row per data set of the catalogue or of ``data_dir``; ``problem`` describes the damage of a damaged one."""
    prepared = list_prepared(data_dir)
    rows = []
    for name in [*DATASETS, *(name for name in prepared if name not in DATASETS)]:
        found = prepared.get(name)
        info = DATASETS.get(name) if found is None or isinstance(found, InputError) else found.info
        row: dict[str, Any] = {"name": name} | dict.fromkeys(("classes", "size", "train", "test", "mean", "std"), "")
        if info is not None:
            row |= {
                "title": info.title,
                "classes": len(info.classes),
                "size": f"{info.size}x{info.size}x{info.channels}",
                "train": info.train,
                "test": info.test,
                "labelled": info.labelled,
                "mean": " ".join(f"{value:.4f}" for value in info.mean),
                "std": " ".join(f"{value:.4f}" for value in info.std),
                "stats_source": info.stats_source,
            }
        row["prepared"] = "damaged" if isinstance(found, InputError) else "yes" if found else "no"
        row["folder"] = str(data_dir / name) if found else ""
        row["problem"] = str(found) if isinstance(found, InputError) else ""
        rows.append(row)
    return rows


def data_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes below the table: sources of means and deviations, sets without labels, damage."""
    sources = grouped((row for row in rows if "stats_source" in row), lambda row: row["stats_source"])
    notes = [f"mean and std of {', '.join(row['name'] for row in having)}: {source}"
             for source, having in sources.items()]  # fmt: skip
    notes += [f"the training images of {row['name']} have no labels" for row in rows if not row.get("labelled", True)]
    return notes + [row["problem"] for row in rows if row["problem"]]


MOST_PIXELS = 100_000_000
"""Width times height of the largest sheet."""
_TILE = 64
"""Approximate size of an enlarged small image in pixels."""
_LARGEST_TILE = 128
_GAP = 2
_MARGIN = 12
_HEADING = 40
_LABEL = 150
"""Largest width of a class's name in pixels; longer names are cut."""
_ASPECT = 1.4
"""Target width / height."""
_INK, _PALE = (20, 20, 20), (120, 120, 120)


def choose(labels: np.ndarray, classes: int, per_class: int) -> list[np.ndarray]:
    """The positions (int64) of up to ``per_class`` samples of each class, the first in a fixed random order.

    Labels are int [N], from 0 to ``classes`` - 1.
    """
    generator = np.random.Generator(np.random.PCG64(stream("data.show")))
    order = generator.permutation(len(labels))
    shuffled = labels[order]
    return [order[np.flatnonzero(shuffled == label)[:per_class]] for label in range(classes)]


def unlabelled(info: DataInfo) -> DataInfo:
    """The set as one class, to draw images without labels."""
    return dataclasses.replace(info, classes=("no labels",))


def draw(info: DataInfo, images: Beton, per_class: int, heading: str) -> Image.Image:
    """Every class with its name, its number of images and ``per_class`` of them.

    Small images are enlarged by an integer factor without smoothing; larger ones than 128 pixels are scaled down to
    that. InputError if the sheet would have more than ``MOST_PIXELS`` pixels.
    """
    chosen = choose(images.labels, len(info.classes), per_class)
    counts = np.bincount(images.labels, minlength=len(info.classes))
    tile, how = _tile(info.size)
    font, small = ImageFont.load_default(14), ImageFont.load_default(11)
    names = [_cut(name, font) for name in info.classes]
    totals = [f"{count:,}" for count in counts]
    label = 8 + math.ceil(max(*map(font.getlength, names), *map(small.getlength, totals)))
    widest = max(len(positions) for positions in chosen)
    block, row = label + widest * (tile + _GAP) + 2 * _MARGIN, tile + _GAP
    columns = min(len(names), max(1, round(math.sqrt(_ASPECT * len(names) * row / block))))
    rows = math.ceil(len(names) / columns)
    columns = math.ceil(len(names) / rows)
    heading = f"{heading}; {info.size} x {info.size} pixels, {how}"
    width = max(columns * block, math.ceil(font.getlength(heading)) + 2 * _MARGIN)
    height = _HEADING + rows * row + _MARGIN
    if width * height > MOST_PIXELS:
        raise InputError(
            f"A contact sheet of '{info.name}' with {counted(per_class, 'image')} a class would have {width:,} x "
            f"{height:,} pixels. Give a smaller --per-class."
        )
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 12), heading, _INK, font)
    for number, (name, positions) in enumerate(zip(names, chosen, strict=True)):
        left, top = number // rows * block + _MARGIN, _HEADING + number % rows * row
        pen.text((left, top + tile // 2 - 16), name, _INK, font)
        pen.text((left, top + tile // 2 + 2), totals[number], _PALE, small)
        for place, pixels in enumerate(images.gather(positions)):
            sheet.paste(_picture(pixels, tile), (left + label + place * (tile + _GAP), top))
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Write the sheet to ``path`` atomically; InputError if that fails, or it does not end in .png."""
    if path.suffix.lower() != ".png":
        raise InputError(f"'{path}' does not end in .png, and a contact sheet is a PNG file. Give --out NAME.png.")
    content = BytesIO()
    sheet.save(content, "PNG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content.getvalue())
    except OSError as error:
        raise InputError(f"Cannot write '{path}': {error.strerror or error}. Give another file with --out.") from error


def _tile(size: int) -> tuple[int, str]:
    """The drawn size in pixels of an image of size x size, and how it is scaled, in words."""
    tile = min(size * max(1, round(_TILE / size)), _LARGEST_TILE)
    how = f"scaled to {tile} x {tile}" if tile < size else f"enlarged {tile // size} times" if tile > size else "as is"
    return tile, how


def _cut(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    line = " ".join(name.split())
    if font.getlength(line) <= _LABEL:
        return line
    kept = bisect.bisect(range(len(line)), float(_LABEL), key=lambda length: font.getlength(line[:length] + "..."))
    return line[: kept - 1] + "..."


def _picture(pixels: np.ndarray, tile: int) -> Image.Image:
    """uint8 [H, H, C] as an RGB picture of tile x tile."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    sampling = Image.Resampling.LANCZOS if tile < len(pixels) else Image.Resampling.NEAREST
    return picture.resize((tile, tile), sampling)
