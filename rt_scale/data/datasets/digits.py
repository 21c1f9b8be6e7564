"""The handwritten digits that come with scikit-learn: no file to look for."""

from __future__ import annotations

import numpy as np

from rt_scale.data.catalogue import DataInfo
from rt_scale.data.datasets.original import Original, in_memory
from rt_scale.data.subsets import stratified_split

SPLIT_SEED = 0


def read_digits(info: DataInfo) -> Original:
    """1,797 images of 8 x 8 pixels with values 0..16, scaled to 0..255; our own stratified 80/20 split."""
    from sklearn.datasets import load_digits  # takes a second to import, and only this needs it

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    train, test = stratified_split(labels, SPLIT_SEED)
    return Original(
        info,
        in_memory(images[train], labels[train]),
        in_memory(images[test], labels[test]),
        notes={"split": f"80/20, stratified, stream data.split, seed {SPLIT_SEED}"},
    )
