from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt_scale.data.datasets.base import Original, Source, Split
from rt_scale.data.datasets.folder import TEST, TRAIN, VALIDATION, divide, read_folder, split_kind
from rt_scale.spec.errors import InputError

SaveImages = Callable[..., None]
Read = Callable[..., Original]


@pytest.fixture
def read(source: Callable[..., Source]) -> Read:
    def call(path: Path, size: int | None = None, split_seed: int = 0, name: str = "pets") -> Original:
        original = read_folder(name, source(path, size, split_seed))
        original.check()
        return original

    return call


def _images(split: Split) -> np.ndarray:
    return np.concatenate(list(split.chunks()))


def _expected(root: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(root.glob("*/*.png"))])


@pytest.mark.parametrize("held_out", ["test", "val", "Valid", "TEST", "testing_set"])
def test_train_and_test_folders(read: Read, save_images: SaveImages, tmp_path: Path, held_out: str) -> None:
    root = tmp_path / "pets"
    save_images(root / "train", {"dog": 3, "cat": 5})
    save_images(root / held_out, {"cat": 2, "dog": 1}, seed=1)
    (root / "README.md").write_text("hello")
    original = read(root, name="animals")
    info = original.info
    assert (info.name, info.classes, info.size, info.channels) == ("animals", ("cat", "dog"), 6, 3)
    assert (info.train, info.test) == (8, 3)
    assert str(root) in info.origin
    assert original.measure
    assert original.train.labels.tolist() == [0] * 5 + [1] * 3
    assert original.test.labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(_images(original.train), _expected(root / "train"))
    np.testing.assert_array_equal(_images(original.test), _expected(root / held_out))
    assert original.notes.keys() == {"split", "left out"}
    assert original.notes["split"].startswith(f"train/ and {held_out}/")
    assert ("serve as test images" in original.notes["split"]) is held_out.lower().startswith("val")
    assert original.notes["left out"].startswith("1 file of")
    assert ".md" in original.notes["left out"]


def test_val_is_left_out_where_there_is_test(read: Read, save_images: SaveImages, tmp_path: Path) -> None:
    for part, count in (("train", 4), ("test", 1), ("val", 2)):
        save_images(tmp_path / "pets" / part, {"cat": count, "dog": count})
    original = read(tmp_path / "pets")
    assert (original.info.train, original.info.test) == (8, 2)
    assert original.notes["folders left out"] == "val (4 images)"


def test_splits_may_lie_a_folder_deeper(read: Read, save_images: SaveImages, tmp_path: Path) -> None:
    for part, count in (("training_set", 4), ("test_set", 1)):
        save_images(tmp_path / "pets" / part / part, {"cat": count, "dog": count})
    original = read(tmp_path / "pets")
    assert original.info.classes == ("cat", "dog")
    assert (original.info.train, original.info.test) == (8, 2)


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
@pytest.mark.parametrize("parts", [("one", "two"), ("test", "val"), ("Train", "more")])
def test_what_may_be_splits_is_never_made_classes(
    read: Read, save_images: SaveImages, tmp_path: Path, parts: tuple[str, str], kind: str
) -> None:
    for part in parts:
        save_images(tmp_path / "in" / "pets" / part, {"cat": 3, "dog": 3})
    path = tmp_path / "in" / "pets"
    if kind != "folder":
        path = Path(shutil.make_archive(str(tmp_path / "pets"), kind, tmp_path / "in"))
    with pytest.raises(InputError, match=r"train/CLASS/IMAGE") as refusal:
        read(path)
    assert str(path) in str(refusal.value)


def test_classes_without_test_images_are_told(read: Read, save_images: SaveImages, tmp_path: Path) -> None:
    save_images(tmp_path / "pets" / "train", {"cat": 3, "cow": 3, "dog": 3})
    save_images(tmp_path / "pets" / "test", {"cat": 1, "dog": 1})
    assert read(tmp_path / "pets").notes["no test images"] == "1 class: cow"


def test_a_single_level_is_split_by_seed(read: Read, save_images: SaveImages, tmp_path: Path) -> None:
    save_images(tmp_path / "pets", {"cat": 10, "dog": 20})
    original = read(tmp_path / "pets", split_seed=4)
    assert (original.info.train, original.info.test) == (24, 6)
    assert np.bincount(original.test.labels).tolist() == [2, 4]
    assert "seed 4" in original.notes["split"]
    both = np.concatenate([_images(original.train), _images(original.test)])
    everything = _expected(tmp_path / "pets")
    assert {each.tobytes() for each in both} == {each.tobytes() for each in everything}
    again, other = (read(tmp_path / "pets", split_seed=seed) for seed in (4, 5))
    np.testing.assert_array_equal(_images(original.test), _images(again.test))
    assert not np.array_equal(_images(original.test), _images(other.test))


def test_a_class_may_be_called_train(read: Read, save_images: SaveImages, tmp_path: Path) -> None:
    save_images(tmp_path / "traffic", {"train": 5, "bus": 5})
    assert read(tmp_path / "traffic").info.classes == ("bus", "train")


COMPOSED, APART = "caf\u00e9", "cafe\u0301"
"""One name in the two forms that Unicode has for it; macOS writes the second."""


def test_a_class_is_one_whatever_form_of_unicode_its_folders_are_in(
    read: Read, save_images: SaveImages, tmp_path: Path
) -> None:
    save_images(tmp_path / "pets" / "train", {COMPOSED: 3, "dog": 3})
    save_images(tmp_path / "pets" / "test", {APART: 1, "dog": 1})
    original = read(tmp_path / "pets")
    assert original.info.classes == (COMPOSED, "dog")
    assert original.test.labels.tolist() == [0, 1]


def test_two_folders_of_one_class_are_one(read: Read, save_images: SaveImages, tmp_path: Path) -> None:
    save_images(tmp_path / "pets", {COMPOSED: 3, APART: 3, "dog": 3})
    original = read(tmp_path / "pets")
    assert original.info.classes == (COMPOSED, "dog")
    assert original.info.train + original.info.test == 9


def test_files_may_have_any_name_and_classes_are_utf_8(read: Read, save_images: SaveImages, tmp_path: Path) -> None:
    save_images(tmp_path / "pets", {"cat": 3, "dog": 3})
    (tmp_path / "pets" / "dog" / "000.png").rename(tmp_path / "pets" / "dog" / os.fsdecode(b"caf\xe9.png"))
    original = read(tmp_path / "pets")
    assert original.info.train + original.info.test == 6
    assert len(_images(original.train)) == original.info.train
    (tmp_path / "pets" / "dog").rename(tmp_path / "pets" / os.fsdecode(b"chi\xeb"))
    with pytest.raises(InputError, match=r"class folder 'chi\\xeb'.*not UTF-8"):
        read(tmp_path / "pets")


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_linked_images_and_classes_are_read(read: Read, save_images: SaveImages, tmp_path: Path, kind: str) -> None:
    root = tmp_path / "pets"
    save_images(root, {"cat": 5, "dog": 5})
    (root / "dog" / "005.png").symlink_to("../cat/000.png")
    os.link(root / "cat" / "001.png", root / "dog" / "006.png")
    if kind == "folder":
        (root / "hound").symlink_to("dog")
    (root / "dog" / "gone.png").symlink_to("/nowhere/1.png")
    classes = ("cat", "dog", "hound") if kind == "folder" else ("cat", "dog")
    expected = np.concatenate([_expected_class(root, name) for name in classes])
    path = Path(shutil.make_archive(str(root), kind, root)) if kind == "tar" else root
    original = read(path)
    assert original.info.classes == classes
    both = np.concatenate([_images(original.train), _images(original.test)])
    assert sorted(each.tobytes() for each in both) == sorted(each.tobytes() for each in expected)
    told = original.notes["paths left out"]
    assert told.startswith(f"{len(classes) - 1}, ")
    assert all(f"'{name}/gone.png'" in told for name in classes[1:])


def _expected_class(root: Path, name: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((root / name).glob("00*.png"))])


def test_an_archive_of_links_out_of_it_is_refused_with_the_reason(read: Read, tmp_path: Path) -> None:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "1.png").symlink_to("/elsewhere/1.png")
    archive = Path(shutil.make_archive(str(tmp_path / "pets"), "tar", tmp_path / "pets"))
    with pytest.raises(InputError, match=r"holds no images.*'/elsewhere/1.png'.*no file in the archive"):
        read(archive)


def test_images_are_turned_before_they_are_measured(read: Read, save_images: SaveImages, tmp_path: Path) -> None:
    """An upright size is asked for, and what was done is told with its number."""
    save_images(tmp_path / "pets", {"cat": 3, "dog": 3}, shape=(4, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in sorted(tmp_path.glob("pets/*/*.png")):
        Image.open(path).save(path, exif=exif)
    with pytest.raises(InputError, match=r"000.png' has 4 x 8 pixels"):
        read(tmp_path / "pets")
    original = read(tmp_path / "pets", size=4)
    assert original.noticed() == {}
    _images(original.train)
    _images(original.test)
    assert original.noticed()["orientation"].startswith("6 images")
    assert "'cat/000.png'" in original.noticed()["orientation"]


def test_pixels_of_upright_opaque_images_are_what_they_were(
    read: Read, save_images: SaveImages, tmp_path: Path
) -> None:
    save_images(tmp_path / "pets", {"cat": 3, "dog": 3})
    original = read(tmp_path / "pets")
    both = np.concatenate([_images(original.train), _images(original.test)])
    assert {each.tobytes() for each in both} == {each.tobytes() for each in _expected(tmp_path / "pets")}
    assert original.noticed() == {}


def test_an_image_of_too_many_pixels_is_named(
    read: Read, save_images: SaveImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_images(tmp_path / "pets", {"cat": 4, "dog": 4})
    Image.new("RGB", (30, 30)).save(tmp_path / "pets" / "dog" / "001.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    original = read(tmp_path / "pets", size=6)  # up to twice the limit PIL only warns
    assert len(_images(original.train)) + len(_images(original.test)) == 8
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(InputError, match=r"dog/001\.png' has more than 800 pixels.*Scale it down"):
        _read_through(read, tmp_path / "pets", size=6)


@pytest.mark.parametrize("kind", ["tar", "gztar", "xztar", "zip"])
def test_archives_hold_the_same(read: Read, save_images: SaveImages, tmp_path: Path, kind: str) -> None:
    save_images(tmp_path / "in" / "pets" / "train", {"cat": 3, "dog": 3})
    save_images(tmp_path / "in" / "pets" / "test", {"cat": 1, "dog": 1})
    archive = Path(shutil.make_archive(str(tmp_path / "pets"), kind, tmp_path / "in"))
    one, other = read(tmp_path / "in" / "pets"), read(archive)
    np.testing.assert_array_equal(_images(one.train), _images(other.train))
    np.testing.assert_array_equal(one.test.labels, other.test.labels)
    assert one.info.classes == other.info.classes


def test_grey_images_have_one_channel_and_one_coloured_makes_three(
    read: Read, save_images: SaveImages, tmp_path: Path
) -> None:
    save_images(tmp_path / "pets", {"cat": 5, "dog": 5}, shape=(6, 6))
    original = read(tmp_path / "pets")
    assert original.info.channels == 1
    assert _images(original.train).shape == (8, 6, 6, 1)
    Image.new("RGB", (6, 6), (255, 0, 0)).save(tmp_path / "pets" / "dog" / "002.png")
    assert read(tmp_path / "pets").info.channels == 3


@pytest.mark.parametrize("mode", ["P", "RGBA", "1", "LA", "CMYK"])
def test_modes_become_colour(read: Read, save_images: SaveImages, tmp_path: Path, mode: str) -> None:
    save_images(tmp_path / "pets", {"cat": 5, "dog": 5})
    image = Image.new("RGB", (6, 6), (255, 255, 255)).convert(mode)
    for path in (tmp_path / "pets").glob("cat/*.png"):
        path.unlink()
        image.save(path.with_suffix(".tif"))
    original = read(tmp_path / "pets")
    assert _images(original.train)[original.train.labels == 0].min() == 255


@pytest.mark.parametrize("shape", [(20, 20), (20, 40), (4, 9)])
def test_images_are_scaled_and_cropped(
    read: Read, save_images: SaveImages, tmp_path: Path, shape: tuple[int, int]
) -> None:
    save_images(tmp_path / "pets", {"cat": 3})
    for number in range(3):
        pixels = np.zeros((*shape, 3), np.uint8)
        side = min(shape)
        left = (shape[1] - side) // 2
        pixels[:, left : left + side] = 200
        (tmp_path / "pets" / "dog").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pets" / "dog" / f"{number}.png")
    original = read(tmp_path / "pets", size=5)
    assert original.info.size == 5
    assert "5 x 5" in original.notes["resized"]
    dogs = _images(original.train)[original.train.labels == 1]
    assert dogs.shape[1:] == (5, 5, 3)
    assert abs(int(dogs[:, 1:4, 1:4].min()) - 200) <= 1


def test_downscaling_is_antialiased(read: Read, save_images: SaveImages, tmp_path: Path) -> None:
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    save_images(tmp_path / "pets", {"cat": 3}, shape=(32, 32))
    (tmp_path / "pets" / "dog").mkdir()
    for number in range(3):
        Image.fromarray(board).save(tmp_path / "pets" / "dog" / f"{number}.png")
    original = read(tmp_path / "pets", size=8)
    dogs = _images(original.train)[original.train.labels == 1]
    assert dogs.min() > 100
    assert dogs.max() < 155


def _read_through(read: Read, path: Path, size: int | None = None) -> None:
    original = read(path, size=size)
    for split in (original.train, original.test):
        _images(split)


def _one_class(root: Path) -> None:
    shutil.rmtree(root / "dog")


def _stray(root: Path) -> None:
    shutil.copy(root / "cat" / "000.png", root / "stray.png")


def _no_image(root: Path) -> None:
    for path in root.glob("*/*.png"):
        path.unlink()


def _broken(root: Path) -> None:
    (root / "dog" / "001.png").write_bytes(b"not a picture")


def _empty_file(root: Path) -> None:
    (root / "dog" / "001.png").write_bytes(b"")


def _cut(root: Path) -> None:
    path = root / "dog" / "001.png"
    path.write_bytes(path.read_bytes()[:-60])


def _larger(root: Path) -> None:
    Image.new("RGB", (7, 6)).save(root / "dog" / "001.png")


def _deep(root: Path) -> None:
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(root / "dog" / "001.png")


def _single(root: Path) -> None:
    for number in range(1, 4):
        (root / "dog" / f"{number:03}.png").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_one_class, "one class only"),
        (_stray, r"stray\.png.*outside of any class"),
        (_no_image, "no images"),
        (_broken, r"Cannot read .*dog/001\.png': it is no image.*'not a pictur'"),
        (_empty_file, r"Cannot read .*dog/001\.png': it is no image.*b''"),
        (_cut, r"Cannot read .*dog/001\.png"),
        (_larger, r"dog/001\.png' has 7 x 6 pixels, others have 6 x 6.*--size 6"),
        (_deep, r"dog/001\.png.*8 bits"),
        (_single, r"single image.*'dog'"),
    ],
)
def test_bad_folders_are_refused(
    read: Read, save_images: SaveImages, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    root = tmp_path / "pets"
    save_images(root, {"cat": 4, "dog": 4})
    spoil(root)
    with pytest.raises(InputError, match=message):
        _read_through(read, root)


def test_an_unreadable_image_in_an_archive_is_named(read: Read, save_images: SaveImages, tmp_path: Path) -> None:
    save_images(tmp_path / "pets", {"cat": 4, "dog": 4})
    _broken(tmp_path / "pets")
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in (tmp_path / "pets").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    with pytest.raises(InputError, match=r"pets\.zip/pets/dog/001\.png"):
        _read_through(read, tmp_path / "pets.zip")


@pytest.mark.parametrize(("size", "message"), [(None, r"9 x 6 pixels.*--size 6"), (0, "at least 1")])
def test_oblong_images_need_a_size(
    read: Read, save_images: SaveImages, tmp_path: Path, size: int | None, message: str
) -> None:
    save_images(tmp_path / "pets", {"cat": 4, "dog": 4}, shape=(6, 9, 3))
    with pytest.raises(InputError, match=message):
        read(tmp_path / "pets", size=size)


def test_a_class_without_training_images_is_named(read: Read, save_images: SaveImages, tmp_path: Path) -> None:
    save_images(tmp_path / "pets" / "train", {"cat": 2, "dog": 2})
    save_images(tmp_path / "pets" / "test", {"cow": 1})
    with pytest.raises(InputError, match="class 'cow'"):
        read(tmp_path / "pets")


def _divide(*folders: str) -> tuple[str, str] | None:
    images = [(*folder.split("/"), f"{number}.png") for folder in folders for number in range(2)]
    return divide(Path("pets"), sorted(images), 0)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["train", "Train", "TRAIN", "training", "Training_set", "train_images", "train2017", "trn-data"], TRAIN),
        (["val", "Valid", "validation", "dev", "eval", "val2017", "VALIDATION", "valid_set"], VALIDATION),
        (["test", "Test", "testing", "tst", "test_set", "TestImages"], TEST),
        (["bullet_train", "cat", "dataset", "images", "testicle", "trainer", "valley", "device", "set", "1", ""], None),
    ],
)  # fmt: skip
def test_splits_are_known_in_many_spellings(names: list[str], kind: str | None) -> None:
    assert [split_kind(name) for name in names] == [kind] * len(names)


@pytest.mark.parametrize("test", ["test", "Test", "TESTING", "valid", "val", "Validation", "dev"])
@pytest.mark.parametrize("train", ["train", "Train", "training_set"])
def test_the_two_splits_are_found(train: str, test: str) -> None:
    found = _divide(*(f"{part}/{label}" for part in (train, test) for label in ("cat", "dog")))
    assert found == (train, test)


def test_validation_images_are_for_tests_only_where_no_others_have_classes() -> None:
    parts = ("train", "test", "valid", "more")
    assert _divide(*(f"{part}/{label}" for part in parts for label in ("cat", "dog"))) == ("train", "test")
    assert _divide("train/cat", "train/dog", "val/cat", "val/dog", "test") == ("train", "val")


@pytest.mark.parametrize(
    "folders",
    [
        ["cat", "dog"],
        ["bus", "car", "train"],  # a class of vehicles
        ["bullet_train", "cat", "dog", "test_tube", "tub"],
        ["cat/old", "cat/new", "dog/spotted"],
        ["n01/images", "n02/images"],
    ],
)
def test_class_folders_are_no_splits(folders: list[str]) -> None:
    assert _divide(*folders) is None


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["train", "test"], "'test', 'train' are named like splits"),
        (["seg_train/a", "seg_train/b", "seg_test/a", "seg_test/b", "seg_pred"], "'seg_test', 'seg_train' are named"),
        (["train/cat", "train/dog", "test"], "'test', 'train' are named like splits"),
        (["test/cat", "test/dog", "val/cat", "val/dog"], "'test', 'val' are named like splits"),
        (["train/cat", "train/dog", "more"], "'train' is named like a split, but no other"),
        (["train/cat", "train/dog", "Training/cat", "Training/dog", "test/cat"], "'Training', 'train' are both named"),
        (["train/cat", "train/dog", "val/cat", "dev/dog"], "'dev', 'val' are both named like validation"),
        (["fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"], "'fold1', 'fold2' both have 'cat', 'dog' in them"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], "'cat/test', 'cat/train' are named like splits"),
        (["images/train/cat", "images/valid/cat", "docs"], "'images/train', 'images/valid' are named like splits"),
        (["a/b/train/cat", "a/b/test/cat", "docs"], "'a/b/test', 'a/b/train' are named like splits"),
    ],
)  # fmt: skip
def test_what_may_be_splits_is_refused_with_what_is_expected(folders: list[str], told: str) -> None:
    with pytest.raises(InputError, match=r"train/CLASS/IMAGE and test/CLASS/IMAGE") as refusal:
        _divide(*folders)
    assert told in str(refusal.value)
    assert "'pets'" in str(refusal.value)
