"""Data sets of users: what a function may give, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.own import prepare_own
from rt_scale.plugins import find_source
from rt_scale.spec.data import BUILT_IN, GAUSSIAN, DataSpec
from rt_scale.spec.document import own_data
from rt_scale.spec.errors import InputError
from tests.plugins import Write, write

__all__ = ["write"]
TEXT = """
import numpy as np
from PIL import Image
grey = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8)
colour = np.stack([grey] * 3, axis=-1)
labels = [0, 1, 0, 1, 0, 1]
pictures = [Image.fromarray(each) for each in colour]
GIVEN = {
    "grey": (grey, labels, grey[:2], [1, 1]),
    "colour": (colour, np.array(labels), colour[:2], np.array([0, 1])),
    "pictures": (pictures, ["cat", "dog"] * 3, pictures[:2], ["dog", "ant"]),
    "few": (grey, labels, grey),
    "floats": (grey / 255, labels, grey, labels),
    "flat": (grey.reshape(6, 64), labels, grey, labels),
    "wide": (grey[:, :4], labels, grey, labels),
    "mixed": (grey, labels, colour, labels),
    "uneven": ([*pictures[:5], pictures[5].resize((4, 4))], labels, pictures, labels),
    "unlabelled": (grey, labels[:3], grey, labels),
    "negative": (grey, [-1] * 6, grey, labels),
    "shares": (grey, [0.5] * 6, grey, labels),
    "none": (grey, labels, grey[:0], []),
    "raises": None,
}
def given(kind="grey", more=0):
    if GIVEN[kind] is None:
        raise KeyError("the folder is not mounted")
    print("reading")
    return GIVEN[kind]
def nothing():
    return None
"""
Own = Callable[..., DataSpec]


@pytest.fixture
def own(write: Write) -> Own:
    """The part of a spec for the images of a module in the current folder."""
    write("mine_data.py", TEXT)

    def make(name: str = "given", **args: Any) -> DataSpec:
        found = own_data(f"mine_data:{name}", None if not args else str(args), [])
        assert found is not None
        return found

    return make


@pytest.mark.parametrize(
    ("kind", "channels", "classes", "labels"),
    [
        ("grey", 1, ("0", "1"), [1, 1]),
        ("colour", 3, ("0", "1"), [0, 1]),
        ("pictures", 3, ("ant", "cat", "dog"), [2, 0]),
    ],
)
def test_what_a_function_may_give(
    own: Own, tmp_path: Path, kind: str, channels: int, classes: tuple[str, ...], labels: list[int]
) -> None:
    prepared = prepare_own(own(kind=kind), tmp_path)
    assert (prepared.info.train, prepared.info.test) == (6, 2)
    assert (prepared.info.size, prepared.info.channels, prepared.info.classes) == (8, channels, classes)
    assert prepared.test.labels.tolist() == labels
    grey = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8, 1)
    assert np.array_equal(prepared.train.read_all(), np.broadcast_to(grey, (6, 8, 8, channels)))
    assert prepared.info.mean == pytest.approx((grey.mean() / 255,) * channels)
    assert prepare_own(own(kind=kind), tmp_path).sha256 == prepared.sha256


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("few", "gives 3 values"),
        ("floats", r"images of float64 \[8, 8, 1\]"),
        ("flat", r"images of uint8 \[64\]"),
        ("wide", r"images of uint8 \[4, 8, 1\]"),
        ("mixed", r"training images of \[8, 8, 1\] and test images of \[8, 8, 3\]"),
        ("uneven", r"images of \[8, 8, 3\] and of"),
        ("unlabelled", "6 images and 3 labels"),
        ("negative", "Label -1"),
        ("shares", "labels float64"),
        ("none", r"labels int64 \[6\] and float64 \[0\]"),
        ("raises", "cannot be read: KeyError.*not mounted"),
    ],
)
def test_what_is_refused(own: Own, tmp_path: Path, kind: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        prepare_own(own(kind=kind), tmp_path)
    assert not [path for path in tmp_path.iterdir() if "given" in path.name and not path.name.endswith(".lock")]


def test_no_images_at_all(own: Own, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gives null"):
        prepare_own(own("nothing"), tmp_path)
    with pytest.raises(InputError, match="did you mean 'kind'"):
        prepare_own(own(knid="grey"), tmp_path)


def test_no_plugin_has_the_name_of_a_built_in_set(write: Write) -> None:
    assert {*DATASETS, GAUSSIAN} == set(BUILT_IN)
    write("mine_digits.py", "def digits(): pass\n")
    with pytest.raises(InputError, match="rt-scale's own and mine_digits:digits"):
        own_data("digits", None, ["mine_digits"])


def test_its_name_and_arguments(own: Own) -> None:
    data = own(kind="colour", more=1)
    assert data.source == find_source("mine_data:given").sha256
    assert data.args == {"kind": "colour", "more": 1}
    assert own_data("given", None, ["mine_data"]) == own()
    assert own_data("digits", None, []) is None
    with pytest.raises(InputError, match="--args belongs to plugins"):
        own_data("digits", "{a: 1}", [])
    with pytest.raises(InputError, match="a mapping is expected"):
        own_data("mine_data:given", "3", [])
