"""Label noise: the labels of a share of the samples are drawn anew."""

from __future__ import annotations

import numpy as np

from rt_scale.spec.errors import InputError
from rt_scale.spec.seeding import stream


def noisy_labels(labels: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """``labels`` of which a share is drawn anew, uniformly from all classes, the right one among them.

    So at share 1 labels say nothing of images (Zhang et al. 2017, section 2.1, partially corrupted labels).

    Nested: of two shares, the samples that are drawn at the smaller get the same label at the larger. Who is drawn
    goes by position, so noise comes before a subset is taken where subsets are to agree on it.

    Args:
        labels: int [N], in 0..classes-1; left as they are.
        share: of the samples, in [0, 1]; exactly round(share * N) of them are drawn.
        classes: at least 2.
        seed: the user's data seed, of the stream ``data.label_noise``.

    Returns:
        int64 [N].

    Raises:
        InputError: a share outside [0, 1], fewer than 2 classes, or labels outside of the classes.
    """
    if not 0 <= share <= 1:
        raise InputError(f"Label noise on a share of {share} of the samples was asked for; allowed is from 0 to 1.")
    if classes < 2:
        raise InputError(f"Label noise needs at least 2 classes to draw from; there are {classes}.")
    noisy = np.array(labels, np.int64)
    if len(noisy) and not 0 <= noisy.min() <= noisy.max() < classes:
        raise InputError(f"Labels go from {noisy.min()} to {noisy.max()}; of {classes} classes, 0 to {classes - 1}.")
    generator = np.random.Generator(np.random.PCG64(stream("data.label_noise", seed)))
    turn = generator.permutation(len(noisy))
    drawn = generator.integers(0, classes, len(noisy))
    chosen = turn[: round(share * len(noisy))]
    noisy[chosen] = drawn[chosen]
    return noisy
