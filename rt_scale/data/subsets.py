"""Nested class-balanced subsets, stratified splits, label noise."""

from __future__ import annotations

import numpy as np

from rt_scale.spec.errors import InputError, counted
from rt_scale.spec.run import stream

TEST_SHARE = 0.2
"""Share of test samples, rounded up."""


def nested_subset(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Ascending int64 [n] positions of ``n`` samples, balanced over the classes; larger subsets contain smaller ones.

    Every class is shuffled; in each round every class gives a sample, in a random order of the classes. So the counts
    of classes differ by at most 1 until a class is used up.

    ``labels`` are int [N]; InputError if ``n`` is not from the number of classes to N.
    """
    labels = np.asarray(labels)
    classes = len(np.unique(labels))
    if not classes <= n <= len(labels):
        raise InputError(
            f"A subset of {counted(n, 'image')} was asked for; allowed is from {classes}, one a class, to the "
            f"{len(labels):,} there are."
        )
    generator = np.random.Generator(np.random.PCG64(stream("data.subset", seed)))
    turn = _rank_in_class(labels, generator)
    draw = generator.random(len(labels))
    up_to = np.cumsum(np.bincount(turn))
    whole = int(np.searchsorted(up_to, n, side="right"))  # complete rounds
    chosen = turn < whole
    if (rest := n - int(np.count_nonzero(chosen))) > 0:
        last = np.flatnonzero(turn == whole)
        chosen[last[np.argsort(draw[last], kind="stable")[:rest]]] = True
    return np.flatnonzero(chosen)


def stratified_split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ascending int64 positions of training and of test samples, both with the classes' proportions and some of each.

    Args:
        labels: int [N], at least two of every class.
        seed: of the stream ``data.split``.
    """
    labels = np.asarray(labels)
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if counts.min() < 2:
        raise InputError("A class with a single image cannot be split into training and test images.")
    share = counts * TEST_SHARE
    test = np.clip(np.floor(share).astype(np.int64), 1, counts - 1)
    missing = int(np.ceil(len(labels) * TEST_SHARE)) - int(test.sum())
    for position in np.argsort(test - share, kind="stable")[: max(missing, 0)]:
        test[position] += test[position] < counts[position] - 1
    generator = np.random.Generator(np.random.PCG64(stream("data.split", seed)))
    quota = np.zeros(labels.max() + 1, np.int64)
    quota[np.unique(labels)] = test
    in_test = _rank_in_class(labels, generator) < quota[labels]
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def _rank_in_class(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """For every sample its rank, from 0, in a random order of its class, int64 [N]."""
    drawn = np.argsort(generator.random(len(labels)), kind="stable")
    # Numpy sorts 16 bits in linear time; millions of 64-bit labels take more than a second.
    small = labels.min() >= 0 and labels.max() < 1 << 16
    keys = labels.astype(np.uint16) if small else labels
    order = drawn[np.argsort(keys[drawn], kind="stable")]
    grouped = keys[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    lengths = np.diff(np.r_[starts, len(labels)])
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(starts, lengths)
    return rank


def noisy_labels(labels: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """``labels`` with a share drawn anew, uniformly from all classes (Zhang et al. 2017, section 2.1), int64 [N].

    Nested: a sample that is drawn at a smaller share gets the same label at a larger one. The draw goes by position,
    so apply noise before taking subsets that must agree.

    Args:
        labels: int [N], in 0..classes-1; not modified.
        share: in [0, 1]; exactly round(share * N) labels are drawn.
        classes: at least 2.
        seed: the user's data seed, of the stream ``data.label_noise``.
    """
    noisy = np.array(labels, np.int64)
    generator = np.random.Generator(np.random.PCG64(stream("data.label_noise", seed)))
    turn = generator.permutation(len(noisy))
    drawn = generator.integers(0, classes, len(noisy))
    chosen = turn[: round(share * len(noisy))]
    noisy[chosen] = drawn[chosen]
    return noisy
