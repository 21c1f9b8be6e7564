"""The table of data sets, and contact sheets as pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt_scale.data.beton import Beton, open_beton, write
from rt_scale.data.catalogue import DATASETS
from rt_scale.data.meta import DataInfo
from rt_scale.data.prepare import open_prepared
from rt_scale.report import data_sets
from rt_scale.report.data_sets import choose, data_notes, data_rows, draw, save
from rt_scale.spec.errors import InputError

LABELS = np.array([0, 1, 0, 1, 1, 0, 1, 0, 1, 1])
Make = Callable[..., tuple[DataInfo, Beton, np.ndarray]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A split of images, each of one colour of its own, with what describes it."""

    def build(
        size: int, channels: int = 3, classes: tuple[str, ...] = ("cat", "dog")
    ) -> tuple[DataInfo, Beton, np.ndarray]:
        generator = np.random.default_rng(0)
        images = generator.integers(0, 200, (len(LABELS), size, size, channels), np.uint8)
        path = tmp_path / f"{size}.beton"
        write(path, [images], LABELS, image_shape=(size, size, channels))
        info = dataclasses.replace(DATASETS["cifar10"], name="pets", classes=classes, size=size, channels=channels)
        return info, open_beton(path), images

    return build


def find(sheet: Image.Image, tile: np.ndarray) -> list[tuple[int, int]]:
    """Where the sheet shows ``tile``, uint8 [h, w, 3], exactly: (top, left)."""
    pixels = np.asarray(sheet)
    first = np.argwhere((pixels == tile[0, 0]).all(-1))
    height, width = tile.shape[:2]
    return [
        (int(top), int(left))
        for top, left in first
        if pixels[top : top + height, left : left + width].shape == tile.shape
        and (pixels[top : top + height, left : left + width] == tile).all()
    ]


def test_samples_are_of_their_class_and_the_same_every_time() -> None:
    chosen = choose(LABELS, 2, 3)
    assert [len(each) for each in chosen] == [3, 3]
    for label, positions in enumerate(chosen):
        assert len(set(positions.tolist())) == 3
        assert (LABELS[positions] == label).all()
    for positions, again in zip(chosen, choose(LABELS, 2, 3), strict=True):
        np.testing.assert_array_equal(positions, again)
    for fewer, more in zip(chosen, choose(LABELS, 3, 100), strict=False):
        np.testing.assert_array_equal(fewer, more[:3])
    assert [len(each) for each in choose(LABELS, 3, 100)] == [4, 6, 0]
    (sample,) = choose(np.zeros(10_000, np.int64), 1, 10)
    assert np.ptp(sample) > 1000  # from all over the set, not its first images


@pytest.mark.parametrize(("size", "times"), [(8, 8), (28, 2), (32, 2), (64, 1), (96, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_sample_is_there_enlarged_without_smoothing(make: Make, size: int, times: int, channels: int) -> None:
    info, split, images = make(size, channels)
    sheet = draw(info, split, 3, "Pets")
    places: dict[int, list[tuple[int, int]]] = {}
    for label, positions in enumerate(choose(LABELS, 2, 3)):
        for position in positions:
            colour = np.broadcast_to(images[position], (size, size, 3))
            (place,) = find(sheet, np.kron(colour, np.ones((times, times, 1), np.uint8)))
            places.setdefault(label, []).append(place)
    for label, where in places.items():
        tops, lefts = zip(*where, strict=True)
        assert len(set(tops)) == 1, label
        assert list(lefts) == sorted(lefts)
    assert places[0] != places[1]


def test_large_images_are_scaled_down(make: Make) -> None:
    info, split, images = make(256)
    sheet = draw(info, split, 1, "Pets")
    (position,) = choose(LABELS, 2, 1)[1]
    tile = Image.fromarray(images[position]).resize((128, 128), Image.Resampling.LANCZOS)
    assert len(find(sheet, np.asarray(tile))) == 1


def test_names_counts_and_heading_are_drawn(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sets, "choose", lambda labels, classes, per_class: [np.array([0]), np.array([1])])
    info, split, _ = make(32)
    plain = np.asarray(draw(info, split, 1, "Pets"))
    assert (plain < 100).all(-1)[:40].any()
    for other in (
        draw(info, split, 1, "Other"),
        draw(dataclasses.replace(info, classes=("cat", "fox")), split, 1, "Pets"),
        draw(info, dataclasses.replace(split, labels=1 - LABELS), 1, "Pets"),
    ):
        assert not np.array_equal(np.asarray(other), plain)


def test_more_samples_make_a_larger_sheet_and_two_hundred_classes_many_columns(make: Make) -> None:
    info, split, _ = make(32)
    few, more = draw(info, split, 2, "P"), draw(info, split, 6, "P")
    assert more.width * more.height > few.width * few.height
    many = draw(dataclasses.replace(info, classes=tuple(f"class {k}" for k in range(200))), split, 5, "Many")
    assert 0.9 < many.width / many.height < 2.2


def test_a_long_name_is_cut(make: Make) -> None:
    info, split, _ = make(32)
    long = draw(dataclasses.replace(info, classes=("a" * 500, "dog")), split, 1, "Pets")
    longer = draw(dataclasses.replace(info, classes=("a" * 900, "dog")), split, 1, "Pets")
    np.testing.assert_array_equal(np.asarray(long), np.asarray(longer))


def test_a_sheet_that_nobody_could_open_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    info, split, _ = make(32)
    monkeypatch.setattr(data_sets, "MOST_PIXELS", 60_000)
    draw(info, split, 2, "Pets")
    with pytest.raises(InputError, match=r"'pets' with 6 images a class would have .* smaller --per-class"):
        draw(info, split, 6, "Pets")


def test_saving_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.PNG"
    for colour in ("white", "black"):
        save(Image.new("RGB", (4, 4), colour), path)
    with Image.open(path) as read:
        assert (read.format, read.convert("RGB").getpixel((0, 0))) == ("PNG", (0, 0, 0))
    assert [each.name for each in path.parent.iterdir()] == ["sheet.PNG"]


def test_what_cannot_be_saved_is_said(tmp_path: Path) -> None:
    sheet = Image.new("RGB", (4, 4))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for name, message in (("a.jpg", r"a\.jpg' does not end in \.png"), ("file/a.png", "Cannot write.*--out")):
        with pytest.raises(InputError, match=message):
            save(sheet, tmp_path / name)
    with pytest.raises(InputError, match="Cannot write"):
        save(sheet, tmp_path / "folder.png")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder.png"]


def test_every_set_has_its_source_of_mean_and_std(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "meta.json").write_text("{")
    rows = data_rows(tmp_path)
    notes = data_notes(rows)
    for name, info in DATASETS.items():
        (note,) = [each for each in notes if each.endswith(f": {info.stats_source}")]
        names = note.removeprefix("mean and std of ").removesuffix(f": {info.stats_source}")
        assert name in names.split(", ")
    unlabelled, damage = (each for each in notes if not each.startswith("mean and std of "))
    assert unlabelled == "the training images of stl10_unlabeled have no labels"
    assert "meta.json" in damage
    assert len(notes) == 2 + len({info.stats_source for info in DATASETS.values()})
    assert {row["name"] for row in rows if not row.get("labelled", True)} == {"stl10_unlabeled"}


def test_data_sets_are_told_whether_prepared_or_damaged(tmp_path: Path) -> None:
    open_prepared("digits", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "meta.json").write_text("{")
    found = {row["name"]: row for row in data_rows(tmp_path)}
    assert {name: found[name]["prepared"] for name in ("digits", "mnist", "mine")} == {
        "digits": "yes",
        "mnist": "no",
        "mine": "damaged",
    }
    assert (found["digits"]["train"], found["digits"]["test"], found["digits"]["size"]) == (1437, 360, "8x8x1")
    assert found["digits"]["folder"] == str(tmp_path / "digits")
    assert "meta.json" in found["mine"]["problem"]
    assert found["mnist"]["folder"] == found["digits"]["problem"] == ""
