"""How a folder of images is laid out: class folders, or folders of splits with class folders in them."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rt_scale.data.datasets.members import Parts
from rt_scale.spec.errors import InputError
from rt_scale.spec.wording import counted, printable, some

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_KINDS = {
    TRAIN: ("train", "training", "trn"),
    VALIDATION: ("val", "valid", "validation", "validate", "validating", "dev", "development", "eval", "evaluation"),
    TEST: ("test", "testing", "tst", "holdout", "heldout"),
}
_WORDS = {word: kind for kind, words in _KINDS.items() for word in words}
_BEHIND = re.compile(r"(set|split|data|images?|imgs?|folder)$")


@dataclass(frozen=True)
class Division:
    """Which top folders are which split."""

    train: str
    test: str
    aside: tuple[str, ...]
    """The others."""
    note: str
    """What serves as what."""


@functools.lru_cache(maxsize=4096)
def split_kind(folder: str) -> str | None:
    """Which split a folder is by its name, in any capitals: ``Train``, ``valid``, ``test_images``, ``val2017``."""
    word = re.sub(r"[^a-z]", "", folder.lower())
    return _WORDS.get(word) or _WORDS.get(_BEHIND.sub("", word))


@functools.lru_cache(maxsize=4096)
def _resembles(folder: str) -> str | None:
    """Which split the name makes one think of, such as ``seg_train`` of train."""
    words = (_WORDS.get(word) for word in re.findall("[a-z]+", folder.lower()))
    return split_kind(folder) or next(filter(None, words), None)


def divide(root: Path, images: Sequence[Parts], depth: int) -> Division | None:
    """The top folders as splits; None where they are classes.

    Folders count as splits where one is called like training images, another like test or validation images, and
    both hold class folders. Validation images are left out where there are test images, and serve as such where there
    are none.

    Args:
        root: for messages.
        images: the paths of all.
        depth: folders that all of them share.

    Raises:
        InputError: the top folders may be splits, but which is what does not show: their names say so, or equal
            subfolders. What is expected is said.
    """
    inside: dict[str, Counter[str]] = {}
    for parts in images:
        if len(parts) > depth + 1:
            inside.setdefault(parts[depth], Counter())[parts[depth + 1] if len(parts) > depth + 2 else ""] += 1
    kinds: dict[str | None, list[str]] = {}
    for top in sorted(inside):
        if set(inside[top]) != {""}:
            kinds.setdefault(split_kind(top), []).append(top)
    if TRAIN not in kinds or not (TEST in kinds or VALIDATION in kinds):
        _refuse_alike(root, images, depth, inside)
        return None
    held_out = TEST if TEST in kinds else VALIDATION
    for kind in (TRAIN, held_out):
        if len(kinds[kind]) > 1:
            _refuse(root, f"its folders {_list(kinds[kind])} are both called like {kind} images")
    (train,), (test,) = kinds[TRAIN], kinds[held_out]
    as_test = " (validation images, which serve as test images)" if held_out == VALIDATION else ""
    aside = tuple(
        f"{printable(top)} ({counted(inside[top].total(), 'image')})" for top in sorted({*inside} - {train, test})
    )
    return Division(train, test, aside, f"{printable(train)}/ and {printable(test)}/{as_test}")


def _refuse_alike(root: Path, images: Sequence[Parts], depth: int, inside: dict[str, Counter[str]]) -> None:
    """Refuse top folders that are hardly classes."""
    alike = {top: kind for top in inside if (kind := _resembles(top))}
    if len(set(alike.values())) > 1 and 2 * len(alike) >= len(inside):
        _refuse(root, f"its folders {_list(alike)} are called like splits, but class folders are not in all of them")
    below = {top: names for top, count in inside.items() if len(names := {*count} - {""}) > 1}
    having: dict[str, str] = {}
    for top in sorted(below):
        if len(inside) > 1 and split_kind(top):
            _refuse(root, f"'{printable(top)}' is called like a split, but no other folder fits to it")
        if other := next((having[name] for name in below[top] if name in having), None):
            shared = _list(below[other] & below[top])
            _refuse(root, f"its folders {_list([other, top])} both have {shared} in them, as splits have classes")
        having |= dict.fromkeys(below[top], top)
    folders = {parts[:end] for parts in images for end in range(depth + 2, len(parts))}
    found: dict[Parts, set[str | None]] = {}
    for folder in folders:
        found.setdefault(folder[:-1], set()).add(split_kind(folder[-1]))
    for folder in sorted(found):
        if TRAIN in found[folder] and {TEST, VALIDATION} & found[folder]:
            _refuse(root, f"splits are not at its top but in '{printable('/'.join(folder))}'")


def _list(names: Sequence[str] | set[str] | dict[str, str]) -> str:
    return some([f"'{printable(name)}'" for name in sorted(names)])


def _refuse(root: Path, why: str) -> NoReturn:
    where = printable(str(root))
    raise InputError(
        f"Which folders of '{where}' are classes and which are splits does not show: {why}. Expected is '{where}' with "
        "CLASS/IMAGE in it, such as cat/1.png, to be split by a seed; or with train/CLASS/IMAGE and test/CLASS/IMAGE, "
        "such as train/cat/1.png (valid/ may stand for test/). Move or rename the folders, or give the one that is so."
    )
