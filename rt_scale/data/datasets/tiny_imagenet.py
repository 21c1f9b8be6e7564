"""Tiny ImageNet, as the published zip archive or unpacked."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from rt_scale.data.datasets.images import Decoder, at_size, name_of
from rt_scale.data.datasets.original import Original, Split
from rt_scale.data.datasets.tree import Parts, Tree, open_tree
from rt_scale.data.files import md5_of, reading
from rt_scale.data.info import DataInfo
from rt_scale.spec.errors import InputError, counted

ARCHIVE = "tiny-imagenet-200.zip"
FOLDER = "tiny-imagenet-200"
_WNIDS, _WORDS = "wnids.txt", "words.txt"
_ANNOTATIONS = ("val", "val_annotations.txt")


def read_tiny_imagenet(
    info: DataInfo, path: Path, *, size: int | None = None, scratch: Path, stack: ExitStack
) -> Original:
    """Read the release from its archive, from its unpacked folder, or from the folder that holds either.

    Images are decoded from where they lie, a chunk at a time; grey ones become colour. The published
    validation images, which have labels, are the test images. A label is the place of a class's WordNet
    identifier in sorted order; the classes' names are the first of ``words.txt``.

    Args:
        info: how many images and which classes, by WordNet identifier, there are to be.
        path: archive or folder.
        size: scale to size x size (bicubic, antialiased); mean and std are then to be measured.
        scratch: a folder for a decompressed archive, where it is not the published zip.
        stack: closes what is opened.

    Raises:
        InputError: naming the file, for one that is missing, unreadable or contradicts another.
    """
    scaled_info, resized = at_size(info, size)
    tree = open_tree(_verified(info, _locate(path)), scratch, stack)
    root = _root(info, tree)
    _check_classes(info, tree, (*root, _WNIDS))
    train, train_labels = _train(info, tree, root)
    test, test_labels = _test(info, tree, root)
    decoder = Decoder(tree, scaled_info.size, info.channels, bool(resized))
    return Original(
        dataclasses.replace(scaled_info, classes=_names(info, tree, (*root, _WORDS))),
        Split(train_labels, lambda: decoder.chunks(train)),
        Split(test_labels, lambda: decoder.chunks(test)),
        notes={"split": "the published validation images are the test images", **resized},
        measure=bool(resized),
        noticed=decoder.notes,
    )


def holds_tiny_imagenet(folder: Path) -> bool:
    """Whether ``folder`` has the archive or the unpacked release."""
    places = (folder / ARCHIVE, folder / _WNIDS, folder / FOLDER / _WNIDS)
    return any(place.is_file() for place in places)


def _locate(path: Path) -> Path:
    """The unpacked folder before the archive, where ``path`` is a folder that holds either."""
    if (path / _WNIDS).is_file():
        return path
    return next((each for each in (path / FOLDER, path / ARCHIVE) if each.exists()), path)


def _verified(info: DataInfo, path: Path) -> Path:
    """``path``, unless it is an archive under an official name with other contents."""
    expected = dict(info.checksums).get(path.name)
    if expected and path.is_file():
        with reading(path, _advice(info)):
            actual = md5_of(path)
        if actual != expected:
            raise InputError(
                f"Wrong checksum: '{path}' has MD5 {actual}, the official one {expected}; it is cut or damaged. "
                f"{_advice(info)}"
            )
    return path


def _root(info: DataInfo, tree: Tree) -> Parts:
    """The folder of the tree that has everything."""
    found = [parts[:-1] for parts in tree.paths if parts[-1] == _WNIDS]
    if not found:
        raise InputError(
            f"'{tree.root}' does not hold {info.title}: expected {_WNIDS}, {_WORDS}, train/ and val/, in it, in "
            f"'{FOLDER}' or in '{ARCHIVE}'."
        )
    return min(found, key=len)


def _check_classes(info: DataInfo, tree: Tree, file: Parts) -> None:
    wnids = tuple(sorted(_lines(info, tree, file)))
    if wnids != info.classes:
        odd = sorted(set(wnids) ^ set(info.classes)) or ["one twice"]
        raise InputError(
            f"'{name_of(tree, file)}' does not list the {len(info.classes)} classes of {info.title}: "
            f"{', '.join(odd[:5])} differ. It is another release. {_advice(info)}"
        )


def _train(info: DataInfo, tree: Tree, root: Parts) -> tuple[list[Parts], np.ndarray]:
    """``train/<class>/images/*.JPEG``, by class, then by name, with int64 labels."""
    position = {wnid: label for label, wnid in enumerate(info.classes)}
    above = (*root, "train")
    depth = len(above)
    images = [
        parts
        for parts in tree.paths
        if parts[:depth] == above and len(parts) == depth + 3 and parts[depth] in position
        if parts[-2] == "images" and parts[-1].endswith(".JPEG")
    ]
    labels = np.array([position[parts[depth]] for parts in images], np.int64)
    counts = np.bincount(labels, minlength=len(position))
    each = info.train // len(position)
    if len(odd := np.flatnonzero(counts != each)):
        where = name_of(tree, (*above, info.classes[odd[0]], "images"))
        raise InputError(
            f"'{where}' has {counted(int(counts[odd[0]]), 'image')} where {each} are expected, and so "
            f"{len(odd)} of {len(position)} classes differ: it is incomplete. {_advice(info)}"
        )
    return images, labels


def _test(info: DataInfo, tree: Tree, root: Parts) -> tuple[list[Parts], np.ndarray]:
    """The images of ``val/images`` in the order of ``val_annotations.txt``, with int64 labels."""
    position = {wnid: label for label, wnid in enumerate(info.classes)}
    file = (*root, *_ANNOTATIONS)
    labels: dict[Parts, int] = {}
    for number, line in enumerate(_lines(info, tree, file), 1):
        name, wnid = (*line.split("\t"), "")[:2]
        if wnid not in position:
            raise InputError(
                f"Line {number} of '{name_of(tree, file)}' names the class '{wnid}', which {_WNIDS} does not have. "
                f"{_advice(info)}"
            )
        labels[(*root, "val", "images", name)] = position[wnid]
    if missing := sorted(labels.keys() - set(tree.paths)):
        raise InputError(
            f"'{name_of(tree, missing[0])}' is missing, and {len(missing) - 1} more of the {len(labels):,} images "
            f"that '{name_of(tree, file)}' lists. {_advice(info)}"
        )
    return list(labels), np.array(list(labels.values()), np.int64)


def _names(info: DataInfo, tree: Tree, file: Parts) -> tuple[str, ...]:
    """A name a class: the first that ``words.txt`` gives, and the identifier where two are alike."""
    words = dict(line.split("\t", 1) for line in _lines(info, tree, file) if "\t" in line)
    first = [words.get(wnid, wnid).split(",")[0].strip() for wnid in info.classes]
    return tuple(
        name if first.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(first, info.classes, strict=True)
    )


def _lines(info: DataInfo, tree: Tree, parts: Parts) -> list[str]:
    """The lines of a text file that are not empty."""
    if parts not in tree.paths:
        raise InputError(f"'{name_of(tree, parts)}' is missing. {_advice(info)}")
    with reading(name_of(tree, parts), _advice(info)):
        return [line for line in tree.read(parts).decode("utf-8").splitlines() if line.strip()]


def _advice(info: DataInfo) -> str:
    return f"Get it again from {info.downloads[0].url}."
