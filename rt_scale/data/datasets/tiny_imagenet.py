"""Tiny ImageNet: 200 classes of photographs, as the published zip archive or unpacked."""

from __future__ import annotations

import dataclasses

import numpy as np

from rt_scale.data.datasets.base import DataSet, Original, Release, Source, Split, downloads
from rt_scale.data.datasets.images import Decoder, at_size, name_of
from rt_scale.data.datasets.tree import Parts, Tree, open_tree
from rt_scale.data.files import md5_of, reading
from rt_scale.spec.errors import InputError

ARCHIVE = "tiny-imagenet-200.zip"
_WORDS = "words.txt"


def read_tiny_imagenet(data: DataSet, source: Source) -> Original:
    """Read the release from its archive, its unpacked folder, or the folder that holds either.

    Images are decoded and scaled (bicubic, antialiased) a chunk at a time. The published validation images are the
    test images. Labels follow the sorted WordNet identifiers; class names are the first ones in ``words.txt``.

    Raises InputError, naming the file, if one is missing or unreadable.
    """
    info, notes = at_size(data.info, source.size)
    path = data.locate(source.path) or source.path
    if path.is_file():
        with reading(path, data.advice):
            data.check_md5(path.name, md5_of(path), f"'{path}'")
    tree = open_tree(path, source.scratch, source.stack)
    root = min((parts[:-1] for parts in tree.paths if parts[-1] == _WORDS), key=len, default=())
    decoder = Decoder(tree, info.size, info.channels, info.size != data.size)

    def split(labels: dict[Parts, int]) -> Split:
        return Split(np.array([*labels.values()], np.int64), lambda: decoder.chunks([*labels]))

    return Original(
        dataclasses.replace(info, classes=_names(data, tree, (*root, _WORDS))),
        split(_train(data, tree, root)),
        split(_test(data, tree, root)),
        notes={"split": "the published validation images are the test images", **notes},
        measure=info.size != data.size,
        noticed=decoder.notes,
    )


def _train(data: DataSet, tree: Tree, root: Parts) -> dict[Parts, int]:
    """``train/<class>/images/*.JPEG``, sorted by class and name, with their labels."""
    position = {(*root, "train", wnid, "images"): label for label, wnid in enumerate(data.classes)}
    images = (parts for parts in tree.paths if parts[:-1] in position and parts[-1].endswith(".JPEG"))
    return {parts: position[parts[:-1]] for parts in images}


def _test(data: DataSet, tree: Tree, root: Parts) -> dict[Parts, int]:
    """The images of ``val/images`` in the order of ``val_annotations.txt``, with their labels."""
    position = {wnid: label for label, wnid in enumerate(data.classes)}
    file = (*root, "val", "val_annotations.txt")
    lines = (line.split("\t") for line in _lines(data, tree, file))
    with reading(name_of(tree, file), f"Each line has an image and its class. {data.advice}"):
        return {(*root, "val", "images", name): position[wnid] for name, wnid, *_ in lines}


def _names(data: DataSet, tree: Tree, file: Parts) -> tuple[str, ...]:
    """Each class's first name in ``words.txt``, with the identifier if two classes share it."""
    words = dict(line.split("\t", 1) for line in _lines(data, tree, file) if "\t" in line)
    first = [words.get(wnid, wnid).split(",")[0].strip() for wnid in data.classes]
    return tuple(
        name if first.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(first, data.classes, strict=True)
    )


def _lines(data: DataSet, tree: Tree, parts: Parts) -> list[str]:
    if parts not in tree.paths:
        raise InputError(f"'{name_of(tree, parts)}' is missing. {data.advice}")
    with reading(name_of(tree, parts), data.advice):
        return [line for line in tree.read(parts).decode("utf-8").splitlines() if line.strip()]


_CLASSES = tuple(
    """
    n01443537 n01629819 n01641577 n01644900 n01698640 n01742172 n01768244 n01770393 n01774384 n01774750
    n01784675 n01855672 n01882714 n01910747 n01917289 n01944390 n01945685 n01950731 n01983481 n01984695
    n02002724 n02056570 n02058221 n02074367 n02085620 n02094433 n02099601 n02099712 n02106662 n02113799
    n02123045 n02123394 n02124075 n02125311 n02129165 n02132136 n02165456 n02190166 n02206856 n02226429
    n02231487 n02233338 n02236044 n02268443 n02279972 n02281406 n02321529 n02364673 n02395406 n02403003
    n02410509 n02415577 n02423022 n02437312 n02480495 n02481823 n02486410 n02504458 n02509815 n02666196
    n02669723 n02699494 n02730930 n02769748 n02788148 n02791270 n02793495 n02795169 n02802426 n02808440
    n02814533 n02814860 n02815834 n02823428 n02837789 n02841315 n02843684 n02883205 n02892201 n02906734
    n02909870 n02917067 n02927161 n02948072 n02950826 n02963159 n02977058 n02988304 n02999410 n03014705
    n03026506 n03042490 n03085013 n03089624 n03100240 n03126707 n03160309 n03179701 n03201208 n03250847
    n03255030 n03355925 n03388043 n03393912 n03400231 n03404251 n03424325 n03444034 n03447447 n03544143
    n03584254 n03599486 n03617480 n03637318 n03649909 n03662601 n03670208 n03706229 n03733131 n03763968
    n03770439 n03796401 n03804744 n03814639 n03837869 n03838899 n03854065 n03891332 n03902125 n03930313
    n03937543 n03970156 n03976657 n03977966 n03980874 n03983396 n03992509 n04008634 n04023962 n04067472
    n04070727 n04074963 n04099969 n04118538 n04133789 n04146614 n04149813 n04179913 n04251144 n04254777
    n04259630 n04265275 n04275548 n04285008 n04311004 n04328186 n04356056 n04366367 n04371430 n04376876
    n04398044 n04399382 n04417672 n04456115 n04465501 n04486054 n04487081 n04501370 n04507155 n04532106
    n04532670 n04540053 n04560804 n04562935 n04596742 n04597913 n06596364 n07579787 n07583066 n07614500
    n07615774 n07695742 n07711569 n07715103 n07720875 n07734744 n07747607 n07749582 n07753592 n07768694
    n07871810 n07873807 n07875152 n07920052 n09193705 n09246464 n09256479 n09332890 n09428293 n12267677
    """.split()  # noqa: SIM905 - two hundred quoted names are harder to check
)

TINY_IMAGENET = DataSet(
    name="tiny_imagenet",
    title="Tiny ImageNet",
    classes=_CLASSES,
    size=64,
    channels=3,
    train=100_000,
    test=10_000,
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2770, 0.2691, 0.2821),
    stats_source="published values of the training images at 64 x 64",
    origin="tiny-imagenet-200.zip of Stanford's CS231n; its validation images are the test images",
    read=read_tiny_imagenet,
    releases=(Release((_WORDS,), "tiny-imagenet-200", ARCHIVE),),
    scalable=True,
    downloads=downloads("http://cs231n.stanford.edu/", {ARCHIVE: "90528d7ca1a48142e341f4ef8d21d0de"}),
    checksums={ARCHIVE: "90528d7ca1a48142e341f4ef8d21d0de"},
)
