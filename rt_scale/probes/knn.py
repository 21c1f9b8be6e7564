"""The k-nearest-neighbour probe."""

from __future__ import annotations

import torch
from torch import Tensor

from rt_scale.probes.neighbours import finite_rows, nearest
from rt_scale.spec.errors import InputError
from rt_scale.spec.stopping import Heed, go_on


@torch.no_grad()
def knn_accuracy(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    k: int = 20,
    classes: int,
    heed: Heed = go_on,
) -> float:
    """Accuracy of a majority vote among the k nearest training embeddings (paper, appendix C.1).

    Euclidean distance; the neighbours are those of an exact search, see ``nearest``: of training samples at exactly the
    k-th distance those with the lowest index vote. Of classes with equally many votes the lowest wins, as in
    scikit-learn. A training embedding that is not finite is farther than any other. A test sample whose embedding is
    not finite is given no class, so counts as wrong.

    Args:
        train_x: float32 [N, D].
        train_y: int64 [N], in [0, classes).
        test_x: float32 [M, D], on the same device.
        test_y: int64 [M].
        k: neighbours, 1 to N.
        classes: number of classes.
        heed: called before every tile of test samples.

    Returns:
        The share of test samples that are given their class, in [0, 1].

    Raises:
        InputError: k is not in 1 to N.
    """
    check_neighbours(k, len(train_x))
    known = finite_rows(test_x)
    right = _vote(train_y[nearest(train_x, test_x[known], k, heed)], classes) == test_y[known]
    return right.sum().item() / len(test_y)


def check_neighbours(k: int, samples: int) -> None:
    """Refuse a number of neighbours ``k`` that is not in 1 to ``samples`` (InputError)."""
    if not 1 <= k <= samples:
        raise InputError(
            f"{k} nearest neighbours were asked for among {samples} training embeddings. "
            f"Set probe.knn to 1 to {samples}, or to 0 to leave the kNN probe out."
        )


def _vote(labels: Tensor, classes: int) -> Tensor:
    """The most frequent label [M] in each row of [M, k]; argmax returns the first, so lowest, of equals."""
    votes = torch.zeros((len(labels), classes), dtype=torch.int32, device=labels.device)
    votes.scatter_add_(1, labels, torch.ones_like(labels, dtype=torch.int32))
    return votes.argmax(dim=1)
