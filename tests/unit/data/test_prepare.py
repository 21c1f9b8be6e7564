from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.datasets.base import DataSet
from rt_scale.data.inputs import to_inputs
from rt_scale.data.prepare import open_prepared, prepare, verify_prepared
from rt_scale.data.prepared import lock
from rt_scale.spec.errors import InputError, RunError

SaveImages = Callable[..., None]


def _times(folder: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]


def test_digits_need_nothing(data_dir: Path) -> None:
    prepared = prepare("digits", data_dir)
    assert (prepared.train.samples, prepared.test.samples) == (1437, 360)
    assert prepared.info == DATASETS["digits"].info
    assert sorted(path.name for path in prepared.folder.iterdir()) == [
        "meta.json",
        "test.beton",
        "train.beton",
    ]
    assert sorted(path.name for path in data_dir.iterdir()) == [".digits.lock", "digits"]
    assert len(prepared.sha256) == 64


def test_preparing_again_does_nothing(data_dir: Path, pets: Path) -> None:
    first = prepare("pets", data_dir, pets)
    before = _times(first.folder)
    for again in (
        prepare("pets", data_dir, pets),
        prepare("pets", data_dir),
        open_prepared("pets", data_dir),
    ):
        assert again.sha256 == first.sha256
        assert again.info == first.info
    assert _times(first.folder) == before


def test_another_source_size_or_split_replaces_a_set_where_that_is_asked_for(data_dir: Path, pets: Path) -> None:
    seen = [prepare("pets", data_dir, pets).sha256]
    seen.append(prepare("pets", data_dir, pets, split_seed=1, replace=True).sha256)
    resized = prepare("pets", data_dir, pets, size=3, replace=True)
    assert resized.train.image_shape == (3, 3, 3)
    assert resized.info.size == 3
    assert "3 x 3" in resized.notes["resized"]
    seen.append(resized.sha256)
    (pets / "cat" / "000.png").unlink()
    fewer = prepare("pets", data_dir, pets, replace=True)
    assert fewer.train.samples + fewer.test.samples == 19
    assert len({*seen, fewer.sha256}) == 4


def test_another_source_size_or_split_never_replaces_a_set_unasked(
    data_dir: Path, pets: Path, save_images: SaveImages, tmp_path: Path
) -> None:
    first = prepare("pets", data_dir, pets, size=3)
    before = _times(first.folder)
    save_images(tmp_path / "others", {"cat": 10, "dog": 10}, seed=1)
    for source, wish, told in (
        (pets, {}, "its size is 3, not the default"),
        (pets, {"size": 4}, "its size is 3, not 4"),
        (None, {"size": 4}, "its size is 3, not 4"),
        (pets, {"size": 3, "split_seed": 2}, "its split seed is 0, not 2"),
        (None, {"split_seed": 2}, "its split seed is 0, not 2"),
        (tmp_path / "others", {"size": 3}, f"its source is '{pets}', not '{tmp_path / 'others'}'"),
    ):
        with pytest.raises(InputError, match=r"'pets' is prepared already in .*--replace") as refusal:
            prepare("pets", data_dir, source, **wish)  # type: ignore[arg-type]
        assert told in str(refusal.value)
        assert ("--from FOLDER" in str(refusal.value)) is (source is None)
    (pets / "cat" / "000.png").unlink()
    with pytest.raises(InputError, match=rf"prepared already.*files of {pets} have changed since.*--replace"):
        prepare("pets", data_dir, pets, size=3)
    assert prepare("pets", data_dir).sha256 == first.sha256
    assert _times(first.folder) == before


def test_the_size_that_images_have_is_no_other_size(data_dir: Path, pets: Path) -> None:
    first = prepare("pets", data_dir, pets)
    assert prepare("pets", data_dir, pets, size=first.info.size).sha256 == first.sha256


def test_replacing_needs_a_source(data_dir: Path, pets: Path) -> None:
    prepare("pets", data_dir, pets)
    with pytest.raises(InputError, match=r"give the folder of its images.*--from FOLDER.*--replace"):
        prepare("pets", data_dir, size=3, replace=True)


def test_a_known_set_is_not_replaced_unasked_either(
    data_dir: Path, tmp_path: Path, small: Callable[..., DataSet]
) -> None:
    small("cifar100", 2, 1)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name, labels in (("train", [3, 9]), ("test", [0])):
            records = [bytes([0, label]) + bytes(3072) for label in labels]
            (tmp_path / folder / f"{name}.bin").write_bytes(b"".join(records))
    first = prepare("cifar100", data_dir, tmp_path / "one")
    assert prepare("cifar100", data_dir, tmp_path / "one").sha256 == first.sha256
    assert prepare("cifar100", data_dir).sha256 == first.sha256
    with pytest.raises(InputError, match=r"'cifar100' is prepared already.*/one', not .*/two'.*--replace"):
        prepare("cifar100", data_dir, tmp_path / "two")
    assert prepare("cifar100", data_dir, tmp_path / "two", replace=True).request.source == str(tmp_path / "two")


def test_a_damaged_set_is_made_again_unasked(data_dir: Path, pets: Path) -> None:
    first = prepare("pets", data_dir, pets)
    (first.folder / "meta.json").write_text("{}")
    assert prepare("pets", data_dir, pets).sha256 == first.sha256


def test_statistics_of_a_folder_are_measured_on_train(data_dir: Path, pets: Path) -> None:
    prepared = prepare("pets", data_dir, pets)
    pixels = prepared.train.read_all().reshape(-1, 3) / 255
    np.testing.assert_allclose(prepared.info.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(prepared.info.std, pixels.std(0), rtol=1e-12)


def test_progress_counts_to_the_last_image(data_dir: Path, pets: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepare("pets", data_dir, pets, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(16, 20), (20, 20)]


def test_a_set_with_a_package_is_found(data_dir: Path, tmp_path: Path, small: Callable[..., DataSet]) -> None:
    installed = tmp_path / "share"
    small("fashion_mnist", 10, 5, package_folder=str(installed), size=28)
    installed.mkdir()
    for part, count in (("train", 10), ("t10k", 5)):
        images = np.zeros((count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            header = np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes()
            (installed / name).write_bytes(header + array.tobytes())
    prepared = prepare("fashion_mnist", data_dir)
    assert prepared.test.labels.tolist() == [0, 1, 2, 3, 4]
    assert prepared.info.mean == (0.2860,)


def test_labels_out_of_range_are_refused(data_dir: Path, tmp_path: Path, small: Callable[..., DataSet]) -> None:
    small("cifar100", 2, 1)
    source = tmp_path / "cifar"
    source.mkdir()
    for name, labels in (("train", [3, 100]), ("test", [0])):
        records = [bytes([0, label]) + bytes(3072) for label in labels]
        (source / f"{name}.bin").write_bytes(b"".join(records))
    with pytest.raises(InputError, match="Label 100 among the training images of 'cifar100' is out of range"):
        prepare("cifar100", data_dir, source)
    assert [path.name for path in data_dir.iterdir()] == [".cifar100.lock"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("../pets", {}, "cannot name a data set"),
        ("cifra10", {}, "Unknown data set 'cifra10'. Did you mean 'cifar10'.*--from FOLDER"),
        ("gaussian", {"source": Path("/")}, "'gaussian' names inputs that are drawn, not prepared"),
        ("mnist", {"source": Path("/nowhere")}, "'/nowhere'.*does not exist"),
        ("mnist", {"source": Path("/"), "download": True}, "Both --from and --download"),
        ("digits", {"source": Path("/")}, "leave out --from"),
        ("digits", {"download": True}, "leave out --from and --download"),
        (
            "cifar10",
            {"size": 64},
            "folders of images and for stl10, stl10_unlabeled, tiny_imagenet; 'cifar10'.*data.size",
        ),
        ("cifar10", {"split_seed": 1}, "'cifar10' has its own split"),
        ("stl10", {"split_seed": 1}, "'stl10' has its own split"),
        ("cifar10", {}, "The original of 'cifar10' is not here"),
    ],
)
def test_bad_requests_are_refused(data_dir: Path, name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(name, data_dir, **arguments)  # type: ignore[arg-type]
    assert not (data_dir / f".{name}.tmp").exists()


def test_images_of_one_colour_are_refused(data_dir: Path, pets: Path) -> None:
    for path in pets.glob("*/*.png"):
        Image.new("RGB", (6, 6), (9, 9, 9)).save(path)
    with pytest.raises(InputError, match="one colour"):
        prepare("pets", data_dir, pets)


@pytest.mark.parametrize("value", [0, 9, 255])
def test_a_channel_that_is_the_same_everywhere_is_divided_by_1(data_dir: Path, pets: Path, value: int) -> None:
    for path in pets.glob("*/*.png"):
        pixels = np.asarray(Image.open(path)).copy()
        pixels[..., 1] = value
        Image.fromarray(pixels).save(path)
    prepared = prepare("pets", data_dir, pets)
    assert prepared.info.mean[1] == value / 255
    assert prepared.info.std[1] == 1
    assert min(prepared.info.std) > 0
    assert prepared.notes["constant"].startswith("green")
    images = torch.from_numpy(prepared.train.read_all())
    inputs = to_inputs(images, prepared.info.mean, prepared.info.std, None, torch.float32)
    assert inputs[:, 1].abs().max() < 1e-6
    assert inputs[:, [0, 2]].std() > 0.9


def test_what_was_changed_in_images_is_kept_with_the_set(data_dir: Path, pets: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for number, path in enumerate(sorted(pets.glob("*/*.png"))[:3]):
        image = Image.open(path)
        image.load()
        image.save(path, exif=exif)
        if number == 0:
            image.putalpha(Image.new("L", image.size, 100))
            image.save(path)
    notes = prepare("pets", data_dir, pets).notes
    assert notes["orientation"].startswith("2 images")
    assert notes["transparency"].startswith("1 image ")
    assert open_prepared("pets", data_dir).notes == notes


def test_one_preparation_at_a_time(data_dir: Path, pets: Path) -> None:
    with lock("pets", data_dir, wait=False), pytest.raises(InputError, match="by another process"):
        prepare("pets", data_dir, pets)
    assert prepare("pets", data_dir, pets).train.samples == 16


def test_what_is_prepared_opens_while_it_is_locked(data_dir: Path, pets: Path) -> None:
    prepare("pets", data_dir, pets)
    with lock("pets", data_dir, wait=False):
        assert prepare("pets", data_dir, pets).train.samples == 16


def test_what_a_killed_preparation_left_is_cleaned(data_dir: Path, pets: Path) -> None:
    left = data_dir / ".pets.tmp"
    (left / "deep").mkdir(parents=True)
    (left / "train.beton.tmp").write_bytes(b"half")
    prepare("pets", data_dir, pets)
    assert not left.exists()


def test_a_failure_leaves_what_was_prepared_before(data_dir: Path, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare("pets", data_dir, pets)
    (pets / "dog" / "003.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"dog/003\.png"):
        prepare("pets", data_dir, pets, replace=True)
    assert verify_prepared("pets", data_dir).sha256 == first.sha256
    assert not (data_dir / ".pets.tmp").exists()


def test_a_full_disk_leaves_nothing(data_dir: Path, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="Disk full"):
        prepare("pets", data_dir, pets)
    assert [path.name for path in data_dir.iterdir()] == [".pets.lock"]


def _leave(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil._ntuple_diskusage(10**9, 0, free)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_too_little_disk_for_both_files_is_refused_before_writing(
    data_dir: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare("pets", data_dir, pets)
    size = sum((prepared.folder / file).stat().st_size for file in ("train.beton", "test.beton"))
    _leave(monkeypatch, size - 1)
    with monkeypatch.context() as patch:
        patch.setattr("rt_scale.data.prepare.write", None)
        with pytest.raises(InputError, match=f"Disk full.*{size:,} bytes are needed, {size - 1:,} are free"):
            prepare("pets", data_dir, pets, split_seed=1, replace=True)
    _leave(monkeypatch, size)
    assert prepare("pets", data_dir, pets, split_seed=1, replace=True).sha256 != prepared.sha256


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path: Path, pets: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Cannot write.*--data-dir"):
        prepare("pets", tmp_path / "file" / "data", pets)


def test_a_folder_of_somebody_else_is_never_touched(data_dir: Path, save_images: SaveImages) -> None:
    save_images(data_dir / "pets", {"cat": 4, "dog": 4})
    before = sorted(data_dir.rglob("*.png"))
    with pytest.raises(InputError, match="holds other files than prepared data"):
        prepare("pets", data_dir, data_dir / "pets")
    assert sorted(data_dir.rglob("*.png")) == before


def test_the_checksum_covers_the_statistics_too(data_dir: Path) -> None:
    """Equal pixels under another mean give other numbers: they must not pass for the same data."""
    before = open_prepared("digits", data_dir)
    path = before.folder / "meta.json"
    path.write_text(path.read_text().replace(repr(before.info.mean[0]), "0.25"))
    after = open_prepared("digits", data_dir)
    assert after.info.mean == (0.25,)
    assert after.sha256 != before.sha256
