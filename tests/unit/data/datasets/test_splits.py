from __future__ import annotations

from pathlib import Path

import pytest

from rt_scale.data.datasets.folder import TEST, TRAIN, VALIDATION, Division, divide, split_kind
from rt_scale.spec.errors import InputError


def _divide(*folders: str) -> Division | None:
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
    assert found is not None
    assert (found.train, found.test, found.aside) == (train, test, ())
    assert ("serve as test images" in found.note) is (split_kind(test) == VALIDATION)


def test_validation_images_and_others_are_left_out_where_there_are_test_images() -> None:
    parts = ("train", "test", "valid", "more")
    found = _divide(*(f"{part}/{label}" for part in parts for label in ("cat", "dog")))
    assert found is not None
    assert (found.train, found.test) == ("train", "test")
    assert found.aside == ("more (4 images)", "valid (4 images)")


def test_test_images_without_classes_are_left_out_where_there_are_validation_images() -> None:
    found = _divide("train/cat", "train/dog", "val/cat", "val/dog", "test")
    assert found is not None
    assert (found.train, found.test, found.aside) == ("train", "val", ("test (2 images)",))


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
        (["train", "test"], "'test', 'train' are called like splits"),
        (["seg_train/a", "seg_train/b", "seg_test/a", "seg_test/b", "seg_pred"], "'seg_test', 'seg_train' are called"),
        (["train/cat", "train/dog", "test"], "'test', 'train' are called like splits"),
        (["test/cat", "test/dog", "val/cat", "val/dog"], "'test', 'val' are called like splits"),
        (["train/cat", "train/dog", "more"], "'train' is called like a split, but no other"),
        (["train/cat", "train/dog", "Training/cat", "Training/dog", "test/cat"], "'Training', 'train' are both called"),
        (["train/cat", "train/dog", "val/cat", "dev/dog"], "'dev', 'val' are both called like validation"),
        (["fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"], "'fold1', 'fold2' both have 'cat', 'dog' in them"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], "'cat', 'dog' both have 'test', 'train'"),
        (["images/train/cat", "images/valid/cat", "docs"], "not at its top but in 'images'"),
        (["a/b/train/cat", "a/b/test/cat", "docs"], "not at its top but in 'a/b'"),
    ],
)  # fmt: skip
def test_what_may_be_splits_is_refused_with_what_is_expected(folders: list[str], told: str) -> None:
    with pytest.raises(InputError, match=r"train/CLASS/IMAGE and test/CLASS/IMAGE") as refusal:
        _divide(*folders)
    assert told in str(refusal.value)
    assert "'pets'" in str(refusal.value)
