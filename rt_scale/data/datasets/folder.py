"""Any folder (or archive) of class folders: train/ and test/, or one level of classes split by seed."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rt_scale.data.catalogue import DataInfo
from rt_scale.data.datasets.decoding import Decoder, check_size, name_of, opened, scaling_note
from rt_scale.data.datasets.members import Parts
from rt_scale.data.datasets.original import Original, Split
from rt_scale.data.datasets.splits import divide
from rt_scale.data.datasets.tree import Tree, open_tree
from rt_scale.data.datasets.upright import GREY, plain
from rt_scale.data.subsets import stratified_split
from rt_scale.spec.errors import InputError, nearest
from rt_scale.spec.wording import counted, printable, some

SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])


@dataclass(frozen=True)
class _Listing:
    """Which image belongs to which class and split."""

    classes: tuple[str, ...]
    train: tuple[Parts, ...]
    train_labels: np.ndarray
    test: tuple[Parts, ...]
    test_labels: np.ndarray
    notes: dict[str, str]


def read_folder(
    name: str, path: Path, *, size: int | None, split_seed: int, scratch: Path, stack: ExitStack
) -> Original:
    """Read class folders of images as a data set called ``name``.

    ``train/`` with ``test/`` or a validation folder (see ``splits.divide``) hold one folder a class; or the class
    folders lie at the top, and a stratified fifth of the images becomes the test part. A label is the place of the
    class in sorted order; its name is the folder's, in Unicode's composed form. Images are turned as EXIF says, and
    composed on white; they are grey where all of them are, else colour. Mean and std are to be measured.

    Args:
        name: the name of the set.
        path: a folder, or a tar or zip archive.
        size: resize to size x size: scaled (bicubic, antialiased) and cropped in the middle; None for images
            that are squares of one size.
        split_seed: of the split, where one is made.
        scratch: a folder for a decompressed archive.
        stack: closes what is opened.

    Raises:
        InputError: no or one class, an image outside of a class, unreadable (named) or of another size; folders of
            which one cannot tell whether they are classes or splits.
    """
    tree = open_tree(path, scratch, stack)
    listing = _list_images(tree, split_seed)
    decoder = _decoder(tree, listing, size)
    notes = dict(listing.notes)
    if size is not None:
        notes["resized"] = scaling_note(size)
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
        origin=f"class folders in '{printable(str(path))}'",
    )
    return Original(
        info,
        Split(listing.train_labels, lambda: decoder.chunks(listing.train)),
        Split(listing.test_labels, lambda: decoder.chunks(listing.test)),
        notes=notes,
        measure=True,
        noticed=decoder.notes,
    )


def _list_images(tree: Tree, split_seed: int) -> _Listing:
    images = [parts for parts in tree.paths if _suffix(parts) in SUFFIXES]
    notes = _left_out(tree)
    if not images:
        told = "".join(f" Left out: {note}." for note in notes.values())
        raise InputError(
            f"'{printable(str(tree.root))}' holds no images ({', '.join(sorted(SUFFIXES))}).{told} Give a folder of "
            "class folders, or one with train/ and test/ of class folders."
        )
    depth = _shared_depth(images)
    if division := divide(tree.root, images, depth):
        train = [parts for parts in images if parts[depth] == division.train]
        test = [parts for parts in images if parts[depth] == division.test]
        notes["split"] = division.note
        if division.aside:
            notes["folders left out"] = ", ".join(division.aside)
        depth = max(depth + 1, min(_shared_depth(train), _shared_depth(test)))
        return _listing(tree, train, test, depth, notes)
    labels = _labels(images, _classes(tree, images, depth), depth)
    _check_single(tree, images, labels, depth)
    chosen, rest = stratified_split(labels, split_seed)
    notes["split"] = f"80/20, stratified, stream data.split, seed {split_seed}"
    return _listing(tree, [images[each] for each in chosen], [images[each] for each in rest], depth, notes)


def _suffix(parts: Parts) -> str:
    return Path(parts[-1]).suffix.lower()


def _left_out(tree: Tree) -> dict[str, str]:
    """What of the tree is no image, counted, for the record."""
    notes = {}
    others = Counter(suffix for parts in tree.paths if (suffix := _suffix(parts)) not in SUFFIXES)
    if others:
        endings = some([f"{printable(ending) or 'none'}: {count:,}" for ending, count in others.most_common()], 5)
        notes["left out"] = f"{counted(others.total(), 'file')} of another ending than images have ({endings})"
    if tree.odd:
        told = some([f"'{printable('/'.join(parts))}' ({why})" for parts, why in tree.odd.items()])
        notes["paths left out"] = f"{len(tree.odd):,}, {told}"
    return notes


def _shared_depth(images: Sequence[Parts]) -> int:
    """How many leading folders all images share, with two levels or more left below them."""
    first, last = min(images), max(images)
    deepest = min(len(parts) for parts in images) - 2
    depth = 0
    while depth < deepest and first[depth] == last[depth]:
        depth += 1
    return depth


def _listing(tree: Tree, train: Sequence[Parts], test: Sequence[Parts], depth: int, notes: dict[str, str]) -> _Listing:
    classes = _classes(tree, train, depth)
    held_out = _names(tree, test, depth)
    if unknown := sorted(held_out - set(classes)):
        close = nearest(unknown[0], classes)
        guess = f" Is it '{close}'?" if close else ""
        raise InputError(
            f"The class '{printable(unknown[0])}' of '{printable(str(tree.root))}' has test images but no training "
            f"images. Every class needs training images.{guess}"
        )
    if untested := sorted(set(classes) - held_out):
        notes["no test images"] = f"{counted(len(untested), 'class')}: {some([*map(printable, untested)])}"
    return _Listing(
        classes,
        tuple(train),
        _labels(train, classes, depth),
        tuple(test),
        _labels(test, classes, depth),
        notes,
    )


def _check_single(tree: Tree, images: Sequence[Parts], labels: np.ndarray, depth: int) -> None:
    """Refuse classes that cannot be split."""
    if len(single := np.flatnonzero(np.bincount(labels)[labels] == 1)):
        alone = [images[int(each)] for each in single]
        names = [f"'{printable(parts[depth])}' ('{name_of(tree, parts)}')" for parts in alone]
        raise InputError(
            f"{counted(len(single), 'class')} of '{printable(str(tree.root))}' cannot be split into training and test "
            f"images, with a single image: {some(names)}. Add images, take the class out, or give train/ and test/."
        )


def _classes(tree: Tree, images: Sequence[Parts], depth: int) -> tuple[str, ...]:
    folders: dict[str, str] = {}
    for folder in sorted({parts[depth] for parts in images if len(parts) > depth + 1}):
        if (other := folders.setdefault(_name(folder), folder)) != folder:
            raise InputError(
                f"'{printable(str(tree.root))}' has two class folders called '{_name(folder)}', written in different "
                f"Unicode: {other!a} and {folder!a}. Put their images into one, or rename one."
            )
        if folder != folder.encode("utf-8", "replace").decode():
            raise InputError(
                f"The name of the class folder '{printable(folder)}' of '{printable(str(tree.root))}' is not UTF-8. "
                "Rename the folder; names of images may be anything."
            )
    _names(tree, images, depth)
    if len(folders) < 2:
        raise InputError(
            f"'{printable(str(tree.root))}' has images of one class only ('{next(iter(folders))}'); two or more are "
            "needed."
        )
    return tuple(folders)


def _name(folder: str) -> str:
    """The class of a folder: macOS writes accents apart from their letters, others do not."""
    return unicodedata.normalize("NFC", folder)


def _names(tree: Tree, images: Iterable[Parts], depth: int) -> set[str]:
    for parts in images:
        if len(parts) < depth + 2:
            raise InputError(f"The image '{name_of(tree, parts)}' lies outside of any class folder.")
    return {_name(parts[depth]) for parts in images}


def _labels(images: Sequence[Parts], classes: tuple[str, ...], depth: int) -> np.ndarray:
    position = {name: label for label, name in enumerate(classes)}
    return np.array([position[_name(parts[depth])] for parts in images], np.int64)


def _decoder(tree: Tree, listing: _Listing, size: int | None) -> Decoder:
    check_size(size)
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
