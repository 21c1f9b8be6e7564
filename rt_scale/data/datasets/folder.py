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

from rt_scale.data.datasets.base import Original, Source, Split
from rt_scale.data.datasets.images import GREY, Decoder, name_of, opened, plain, scaling_note
from rt_scale.data.datasets.tree import Parts, Tree, open_tree
from rt_scale.data.meta import DataInfo
from rt_scale.data.subsets import stratified_split
from rt_scale.spec.errors import InputError, counted, printable, some

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
        listing.split(listing.train, decoder),
        listing.split(listing.test, decoder),
        notes=notes,
        measure=True,
        noticed=decoder.notes,
    )


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


def divide(root: Path, images: Sequence[Parts], depth: int) -> tuple[str, str] | None:
    """The folders of training and of test images, of the top ones of ``images``, which share ``depth`` folders.

    None if the top folders are classes. They are splits if one is named like training images, another like test or
    validation images, and both hold class folders. Validation images serve as test images if there are none.

    Raises InputError if the names or equal subfolders suggest splits, but it is not clear which folder is which.
    """
    inside = _children(images)
    tops = inside[images[0][:depth]]
    below = {top: names for top in tops if (names := inside.get((*images[0][:depth], top)))}
    kinds = {kind: [top for top in sorted(below) if split_kind(top) == kind] for kind in _KINDS}
    held_out = TEST if kinds[TEST] else VALIDATION
    if kinds[TRAIN] and kinds[held_out]:
        for kind in (TRAIN, held_out):
            if len(kinds[kind]) > 1:
                _refuse(root, f"its folders {_list(kinds[kind])} are both named like {kind} images")
        return kinds[TRAIN][0], kinds[held_out][0]
    for folder in sorted(inside):
        alike = {name: found for name in inside[folder] if (found := _resembles(name))}
        if len(set(alike.values())) > 1 and 2 * len(alike) >= len(inside[folder]):
            _refuse(root, f"its folders {_list('/'.join((*folder, name)) for name in alike)} are named like splits")
    for top in sorted(below):
        if len(tops) > 1 and split_kind(top) and len(below[top]) > 1:
            _refuse(root, f"'{printable(top)}' is named like a split, but no other folder matches it")
        for other in sorted(below):
            if other < top and len(below[other]) > 1 and (shared := below[other] & below[top]):
                _refuse(root, f"its folders {_list([other, top])} both have {_list(shared)} in them, as splits do")
    return None


def _children(images: Sequence[Parts]) -> dict[Parts, set[str]]:
    """The names of the folders in every folder that has some."""
    inside: dict[Parts, set[str]] = {}
    for folder in {parts[:-1] for parts in images}:
        for end in range(len(folder)):
            inside.setdefault(folder[:end], set()).add(folder[end])
    return inside


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
    labels: dict[Parts, int]
    notes: dict[str, str]

    def split(self, images: Sequence[Parts], decoder: Decoder) -> Split:
        """Images with their labels."""
        return Split(np.array([self.labels[parts] for parts in images]), lambda: decoder.chunks(images))


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
    if not (splits := divide(tree.root, images, depth)):
        classes, labels = _labelled(tree, images, images, depth)
        try:
            chosen, rest = stratified_split(np.array([*labels.values()]), split_seed)
        except InputError as error:
            counts = Counter(labels.values())
            single = [f"'{printable(name)}'" for label, name in enumerate(classes) if counts[label] == 1]
            raise InputError(f"{error} Classes: {some(single)}. Add images, or give train/ and test/.") from None
        notes["split"] = f"80/20, stratified, stream data.split, seed {split_seed}"
        return _Listing(classes, [images[each] for each in chosen], [images[each] for each in rest], labels, notes)
    train, test = ([parts for parts in images if parts[depth] == top] for top in splits)
    aside = Counter(parts[depth] for parts in images if parts[depth] not in splits and len(parts) > depth + 1)
    as_test = " (validation images, which serve as test images)" if split_kind(splits[1]) == VALIDATION else ""
    notes["split"] = f"{printable(splits[0])}/ and {printable(splits[1])}/{as_test}"
    if aside:
        notes["folders left out"] = ", ".join(
            f"{printable(top)} ({counted(aside[top], 'image')})" for top in sorted(aside)
        )
    depth = max(depth + 1, min(_shared_depth(train), _shared_depth(test)))
    classes, labels = _labelled(tree, train, [*train, *test], depth)
    tested = {labels[parts] for parts in test}
    if untested := [printable(name) for label, name in enumerate(classes) if label not in tested]:
        notes["no test images"] = f"{counted(len(untested), 'class')}: {some(untested)}"
    return _Listing(classes, train, test, labels, notes)


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


def _labelled(
    tree: Tree, train: Sequence[Parts], images: Sequence[Parts], depth: int
) -> tuple[tuple[str, ...], dict[Parts, int]]:
    """The classes, which are those of the images ``train``, and the label of each of ``images``."""
    for parts in images:
        if len(parts) < depth + 2:
            raise InputError(f"The image '{name_of(tree, parts)}' lies outside of any class folder.")
    classes = tuple(sorted({_name(parts[depth]) for parts in train}))
    if len(classes) < 2:
        raise InputError(f"'{_shown(tree)}' has images of one class only ('{classes[0]}'); two or more are needed.")
    position = {name: label for label, name in enumerate(classes)}
    for parts in images:
        name = parts[depth]
        if name != name.encode("utf-8", "replace").decode():
            raise InputError(
                f"The name of the class folder '{printable(name)}' of '{_shown(tree)}' is not UTF-8. Rename the "
                "folder; names of images may be anything."
            )
        if _name(name) not in position:
            raise InputError(
                f"The class '{printable(name)}' of '{_shown(tree)}' has test images but no training images. Every "
                "class needs training images."
            )
    return classes, {parts: position[_name(parts[depth])] for parts in images}


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
