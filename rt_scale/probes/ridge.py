"""The ridge probe: a linear classifier in closed form, a fast addition to the paper's probes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rt_scale.probes.linear import Classifier
from rt_scale.probes.statistics import gram, smaller_gram
from rt_scale.spec.stopping import StopCheck, no_check


@torch.no_grad()
def fit_ridge(x: Tensor, y: Tensor, *, classes: int, l2: float = 1e-3, check_stop: StopCheck = no_check) -> Classifier:
    """The minimum over W and b of mean |W x + b - onehot(y)|^2 + l2 |W|^2, solved in float64.

    scikit-learn's ``RidgeClassifier`` at ``alpha = l2 * N`` (its targets are +-1, which doubles W and gives the same
    decision). With fewer images than dimensions the dual system, N x N, is solved instead.

    Args:
        x: float [N, D] of mean 0 in every dimension, so that b is the classes' frequencies.
        y: int64 [N], in [0, classes), on the same device.
        l2: strength of the penalty, > 0.
    """
    samples, width = x.shape
    targets = functional.one_hot(y, classes).double()
    bias = targets.mean(dim=0)
    targets -= bias
    matrix = smaller_gram(x, check_stop).div_(samples)
    matrix.diagonal().add_(l2)
    # Embeddings that are not finite, of a diverging student, have no factor: they get a bad accuracy, not an error.
    factor, _ = torch.linalg.cholesky_ex(matrix)
    if width <= samples:
        weight = torch.cholesky_solve(gram(x, targets, check_stop).div_(samples), factor)
    else:
        weight = gram(x, torch.cholesky_solve(targets.div_(samples), factor))
    return Classifier(weight.T.contiguous().to(x.dtype), bias.to(x.dtype))
