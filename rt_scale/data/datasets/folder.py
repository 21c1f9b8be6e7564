"""Folders or archives of class folders: train/ and test/, or one level of classes that is split by seed."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from rt_scale.data.datasets.base import DataInfo, Original, Source, Split
from rt_scale.data.datasets.images import GREY, Decoder, name_of, opened, plain, scaling_note
from rt_scale.data.datasets.tree import Parts, Tree, open_tree
from rt_scale.data.subsets import stratified_split
from rt_scale.spec.errors import InputError, counted, nearest, printable, some

SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
TRAIN, VALIDATION, TEST = "train", "validation", "test"
_KINDS = {
    TRAIN: ("train", "training", "trn"),
    VALIDATION: ("val", "valid", "validation", "validate", "validating", "dev", "development", "eval", "evaluation"),
    TEST: ("test", "testing", "tst", "holdout", "heldout"),
}
_WORDS = {word: kind for kind, words in _KINDS.items() for word in words}
_BEHIND = re.compile(r"(set|split|data|images?|imgs?|folder)$")


def read_folder(name: str, source: Source) -> Original:
    """Read class folders of images, in a folder or an archive, as a data set called ``name``.

    Class folders lie in ``train/`` and ``test/`` (see ``divide``), or at the top; then a stratified fifth of the
    images is the test split. Labels follow the sorted class names, in Unicode's composed form. Images are rotated as
    EXIF says and composed on white; they are grey if all of them are grey, else colour.

    Raises:
        InputError: fewer than two classes; an image outside of a class, unreadable or of another size; folders
            that may be classes or splits.
    """
    tree = open_tree(source.path, source.scratch, source.stack)
    listing = _list_images(tree, source.split_seed)
    notes = listing.notes | scaling_note(source.size)
    decoder = _decoder(tree, listing, source.size)
    info = DataInfo(
        name=name,
        title=name,
        classes=listing.classes,
        size=decoder.size,
        channels=decoder.channels,
        train=len(listing.train),
        test=len(listing.test),
        mean=(),
        std=(),
        stats_source="measured on the training images",
        origin=f"class folders in '{_shown(tree)}'",
    )
    return Original(
        info,
        Split(listing.labels(listing.train), lambda: decoder.chunks(listing.train)),
        Split(listing.labels(listing.test), lambda: decoder.chunks(listing.test)),
        notes=notes,
        measure=True,
        noticed=decoder.notes,
    )


@dataclass(frozen=True)
class Division:
    """Which top folders are which split."""

    train: str
    test: str
    aside: tuple[str, ...]
    """The other folders, with their numbers of images."""
    note: str


@functools.lru_cache(maxsize=4096)
def split_kind(folder: str) -> str | None:
    """Which split a folder's name means: ``Train``, ``valid``, ``test_images``, ``val2017``."""
    word = re.sub(r"[^a-z]", "", folder.lower())
    return _WORDS.get(word) or _WORDS.get(_BEHIND.sub("", word))


@functools.lru_cache(maxsize=4096)
def _resembles(folder: str) -> str | None:
    """Which split a folder's name resembles, such as ``seg_train``."""
    words = (_WORDS.get(word) for word in re.findall("[a-z]+", folder.lower()))
    return split_kind(folder) or next(filter(None, words), None)


def divide(root: Path, images: Sequence[Parts], depth: int) -> Division | None:
    """The top folders of ``images``, which share ``depth`` folders, as splits; None if they are classes.

    They are splits if one is named like training images, another like test or validation images, and both hold class
    folders. Validation images serve as test images if there are none, else they are left out.

    Raises InputError if the names or equal subfolders suggest splits, but it is not clear which folder is which.
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
            _refuse(root, f"its folders {_list(kinds[kind])} are both named like {kind} images")
    (train,), (test,) = kinds[TRAIN], kinds[held_out]
    as_test = " (validation images, which serve as test images)" if held_out == VALIDATION else ""
    aside = tuple(
        f"{printable(top)} ({counted(inside[top].total(), 'image')})" for top in sorted({*inside} - {train, test})
    )
    return Division(train, test, aside, f"{printable(train)}/ and {printable(test)}/{as_test}")


def _refuse_alike(root: Path, images: Sequence[Parts], depth: int, inside: dict[str, Counter[str]]) -> None:
    """InputError for top folders that look like splits rather than classes."""
    alike = {top: kind for top in inside if (kind := _resembles(top))}
    if len(set(alike.values())) > 1 and 2 * len(alike) >= len(inside):
        _refuse(root, f"its folders {_list(alike)} are named like splits, but not all of them hold class folders")
    below = {top: names for top, count in inside.items() if len(names := {*count} - {""}) > 1}
    having: dict[str, str] = {}
    for top in sorted(below):
        if len(inside) > 1 and split_kind(top):
            _refuse(root, f"'{printable(top)}' is named like a split, but no other folder matches it")
        if other := next((having[name] for name in below[top] if name in having), None):
            shared = _list(below[other] & below[top])
            _refuse(root, f"its folders {_list([other, top])} both have {shared} in them, as splits have classes")
        having |= dict.fromkeys(below[top], top)
    found: dict[Parts, set[str | None]] = {}
    for folder in {parts[:end] for parts in images for end in range(depth + 2, len(parts))}:
        found.setdefault(folder[:-1], set()).add(split_kind(folder[-1]))
    for folder in sorted(found):
        if TRAIN in found[folder] and {TEST, VALIDATION} & found[folder]:
            _refuse(root, f"splits are not at its top but in '{printable('/'.join(folder))}'")


def _list(names: Iterable[str]) -> str:
    return some([f"'{printable(name)}'" for name in sorted(names)])


def _refuse(root: Path, why: str) -> NoReturn:
    where = printable(str(root))
    raise InputError(
        f"It is not clear which folders of '{where}' are classes and which are splits: {why}. Expected is '{where}' "
        "with CLASS/IMAGE in it, such as cat/1.png, to be split by a seed; or with train/CLASS/IMAGE and "
        "test/CLASS/IMAGE, such as train/cat/1.png (valid/ may replace test/). Move or rename the folders, or give the "
        "one with this structure."
    )


@dataclass(frozen=True)
class _Listing:
    classes: tuple[str, ...]
    train: list[Parts]
    test: list[Parts]
    depth: int
    """Position of the class folder in every path."""
    notes: dict[str, str]

    def labels(self, images: Sequence[Parts]) -> np.ndarray:
        """The labels of ``images``, int64 [n]."""
        position = {name: label for label, name in enumerate(self.classes)}
        return np.array([position[_name(parts[self.depth])] for parts in images], np.int64)


def _list_images(tree: Tree, split_seed: int) -> _Listing:
    images = [parts for parts in tree.paths if _suffix(parts) in SUFFIXES]
    notes = _left_out(tree)
    if not images:
        extra = "".join(f" Left out: {note}." for note in notes.values())
        raise InputError(
            f"'{_shown(tree)}' holds no images ({', '.join(sorted(SUFFIXES))}).{extra} Give a folder of class folders, "
            "or one with train/ and test/ of class folders."
        )
    depth = _shared_depth(images)
    if division := divide(tree.root, images, depth):
        train = [parts for parts in images if parts[depth] == division.train]
        test = [parts for parts in images if parts[depth] == division.test]
        notes["split"] = division.note
        if division.aside:
            notes["folders left out"] = ", ".join(division.aside)
        depth = max(depth + 1, min(_shared_depth(train), _shared_depth(test)))
        listing = _Listing(_classes(tree, train, depth), train, test, depth, notes)
        _check_held_out(tree, listing)
        return listing
    whole = _Listing(_classes(tree, images, depth), images, [], depth, notes)
    labels = whole.labels(images)
    _check_single(tree, whole, labels)
    chosen, rest = ([images[each] for each in part] for part in stratified_split(labels, split_seed))
    notes["split"] = f"80/20, stratified, stream data.split, seed {split_seed}"
    return _Listing(whole.classes, chosen, rest, depth, notes)


def _shown(tree: Tree) -> str:
    return printable(str(tree.root))


def _suffix(parts: Parts) -> str:
    return Path(parts[-1]).suffix.lower()


def _left_out(tree: Tree) -> dict[str, str]:
    notes = {}
    others = Counter(suffix for parts in tree.paths if (suffix := _suffix(parts)) not in SUFFIXES)
    if others:
        endings = some([f"{printable(ending) or 'none'}: {count:,}" for ending, count in others.most_common()], 5)
        notes["left out"] = f"{counted(others.total(), 'file')} of another ending than images have ({endings})"
    if tree.odd:
        listed = some([f"'{printable('/'.join(parts))}' ({why})" for parts, why in tree.odd.items()])
        notes["paths left out"] = f"{len(tree.odd):,}, {listed}"
    return notes


def _shared_depth(images: Sequence[Parts]) -> int:
    """How many leading folders all images share; at least two levels remain below them."""
    first, last = min(images), max(images)
    deepest = min(len(parts) for parts in images) - 2
    depth = 0
    while depth < deepest and first[depth] == last[depth]:
        depth += 1
    return depth


def _check_held_out(tree: Tree, listing: _Listing) -> None:
    """InputError for classes with only test images; a note on classes without test images."""
    held_out = _class_names(tree, listing.test, listing.depth)
    if unknown := sorted(held_out - set(listing.classes)):
        close = nearest(unknown[0], listing.classes)
        guess = f" Is it '{close}'?" if close else ""
        raise InputError(
            f"The class '{printable(unknown[0])}' of '{_shown(tree)}' has test images but no training images. Every "
            f"class needs training images.{guess}"
        )
    if untested := sorted(set(listing.classes) - held_out):
        listing.notes["no test images"] = f"{counted(len(untested), 'class')}: {some([*map(printable, untested)])}"


def _check_single(tree: Tree, listing: _Listing, labels: np.ndarray) -> None:
    """InputError for classes with a single image, which cannot be split."""
    if len(single := np.flatnonzero(np.bincount(labels)[labels] == 1)):
        alone = [listing.train[int(each)] for each in single]
        names = [f"'{printable(parts[listing.depth])}' ('{name_of(tree, parts)}')" for parts in alone]
        raise InputError(
            f"{counted(len(single), 'class')} of '{_shown(tree)}' cannot be split into training and test images, "
            f"with a single image: {some(names)}. Add images, take the class out, or give train/ and test/."
        )


def _classes(tree: Tree, images: Sequence[Parts], depth: int) -> tuple[str, ...]:
    folders: dict[str, str] = {}
    for folder in sorted({parts[depth] for parts in images if len(parts) > depth + 1}):
        if (other := folders.setdefault(_name(folder), folder)) != folder:
            raise InputError(
                f"'{_shown(tree)}' has two class folders called '{_name(folder)}', written in different Unicode: "
                f"{other!a} and {folder!a}. Put their images into one, or rename one."
            )
        if folder != folder.encode("utf-8", "replace").decode():
            raise InputError(
                f"The name of the class folder '{printable(folder)}' of '{_shown(tree)}' is not UTF-8. Rename the "
                "folder; names of images may be anything."
            )
    _class_names(tree, images, depth)
    if len(folders) < 2:
        raise InputError(
            f"'{_shown(tree)}' has images of one class only ('{next(iter(folders))}'); two or more are needed."
        )
    return tuple(folders)


def _class_names(tree: Tree, images: Iterable[Parts], depth: int) -> set[str]:
    for parts in images:
        if len(parts) < depth + 2:
            raise InputError(f"The image '{name_of(tree, parts)}' lies outside of any class folder.")
    return {_name(parts[depth]) for parts in images}


def _name(folder: str) -> str:
    """The class of a folder, composed, since macOS decomposes accented letters."""
    return unicodedata.normalize("NFC", folder)


def _decoder(tree: Tree, listing: _Listing, size: int | None) -> Decoder:
    with opened(tree, listing.train[0]) as first:
        width, height = plain(first, 3)[0].size
    if size is None and width != height:
        raise InputError(
            f"The image '{name_of(tree, listing.train[0])}' has {width} x {height} pixels; images must be "
            f"square. Say --size {min(width, height)}, or another size, to scale and crop all of them."
        )
    grey = all(_is_grey(tree, parts) for parts in (*listing.train, *listing.test))
    return Decoder(tree, size or width, 1 if grey else 3, size is not None)


def _is_grey(tree: Tree, parts: Parts) -> bool:
    with opened(tree, parts) as image:
        return image.mode in GREY
