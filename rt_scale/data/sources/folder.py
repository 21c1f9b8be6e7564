"""Any folder (or archive) of class folders: train/ and test/, or one level of classes split by seed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rt_scale.data.catalogue import DataInfo
from rt_scale.data.sources.decoding import GREY, Decoder, Parts, check_size, name_of, opened, scaling_note
from rt_scale.data.sources.original import Original, Split
from rt_scale.data.sources.tree import Tree, open_tree
from rt_scale.data.subsets import stratified_split
from rt_scale.spec.errors import InputError

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

    ``train/`` with ``test/`` (or ``val/``) hold one folder a class; or the class folders lie at the top, and
    a stratified fifth of the images becomes the test part. A label is the place of the class in sorted order.
    Images are grey where all of them are, else colour; mean and std are to be measured.

    Args:
        name: the name of the set.
        path: a folder, or a tar or zip archive.
        size: resize to size x size: scaled (bicubic, antialiased) and cropped in the middle; None for images
            that are squares of one size.
        split_seed: of the split, where one is made.
        scratch: a folder for a decompressed archive.
        stack: closes what is opened.

    Raises:
        InputError: no or one class, an image outside of a class, unreadable (named) or of another size.
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
        origin=f"class folders in '{path}'",
    )
    return Original(
        info,
        Split(listing.train_labels, lambda: decoder.chunks(listing.train)),
        Split(listing.test_labels, lambda: decoder.chunks(listing.test)),
        notes=notes,
        measure=True,
    )


def _list_images(tree: Tree, split_seed: int) -> _Listing:
    images = [parts for parts in tree.paths if Path(parts[-1]).suffix.lower() in SUFFIXES]
    if not images:
        raise InputError(
            f"'{tree.root}' holds no images ({', '.join(sorted(SUFFIXES))}). Give a folder of class folders, "
            "or one with train/ and test/ of class folders."
        )
    notes = {}
    if others := len(tree.paths) - len(images):
        notes["left out"] = f"{others} files that are no images by their ending"
    depth = _shared_depth(images)
    tops = {parts[depth] for parts in images}
    held_out = next((each for each in ("test", "val") if each in tops), None)
    divided = any(parts[depth] == "train" and len(parts) > depth + 2 for parts in images)
    if held_out and divided:
        train = [parts for parts in images if parts[depth] == "train"]
        test = [parts for parts in images if parts[depth] == held_out]
        notes["split"] = f"train/ and {held_out}/"
        if aside := sorted(tops - {"train", held_out}):
            notes["folders left out"] = ", ".join(aside)
        return _listing(tree, train, test, depth + 1, notes)
    labels = _labels(images, _classes(tree, images, depth), depth)
    chosen, rest = stratified_split(labels, split_seed)
    notes["split"] = f"80/20, stratified, stream data.split, seed {split_seed}"
    return _listing(tree, [images[each] for each in chosen], [images[each] for each in rest], depth, notes)


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
    if unknown := sorted(_names(tree, test, depth) - set(classes)):
        raise InputError(
            f"The class '{unknown[0]}' of '{tree.root}' has test images but no training images. "
            "Every class needs training images."
        )
    return _Listing(
        classes,
        tuple(train),
        _labels(train, classes, depth),
        tuple(test),
        _labels(test, classes, depth),
        notes,
    )


def _classes(tree: Tree, images: Sequence[Parts], depth: int) -> tuple[str, ...]:
    classes = tuple(sorted(_names(tree, images, depth)))
    if len(classes) < 2:
        raise InputError(f"'{tree.root}' has images of one class only ('{classes[0]}'); two or more are needed.")
    return classes


def _names(tree: Tree, images: Sequence[Parts], depth: int) -> set[str]:
    for parts in images:
        if len(parts) < depth + 2:
            raise InputError(f"The image '{name_of(tree, parts)}' lies outside of any class folder.")
    return {parts[depth] for parts in images}


def _labels(images: Sequence[Parts], classes: tuple[str, ...], depth: int) -> np.ndarray:
    position = {name: label for label, name in enumerate(classes)}
    return np.array([position[parts[depth]] for parts in images], np.int64)


def _decoder(tree: Tree, listing: _Listing, size: int | None) -> Decoder:
    check_size(size)
    with opened(tree, listing.train[0]) as first:
        width, height = first.size
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
