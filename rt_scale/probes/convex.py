"""Probes with a unique optimum, beside the paper's: ridge in closed form, and logistic regression to convergence."""

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


@torch.no_grad()
def fit_logistic(
    x: Tensor,
    y: Tensor,
    *,
    classes: int,
    l2: float = 1e-3,
    tolerance: float = 3e-5,
    most_iterations: int = 2000,
    check_stop: StopCheck = no_check,
) -> Classifier:
    """The minimum over W and b of mean cross entropy + l2 / 2 |W|^2, by full-batch L-BFGS from zero.

    scikit-learn's ``LogisticRegression`` at ``C = 1 / (l2 * N)``. The optimum is unique: unlike the linear probe's
    classifier it depends on no seed, order or number of epochs.

    Args:
        x: float [N, D]; centred and scaled ones (``centre_and_scale``) converge fastest.
        y: int64 [N], in [0, classes), on the same device.
        l2: strength of the penalty on the weights, not on the biases; > 0.
        tolerance: largest partial derivative at the end, unless rounding ends the search before. The default is about
            the rounding of float32 on centred and scaled embeddings (scikit-learn's is 1e-4).
        most_iterations: of L-BFGS.
        check_stop: called at every evaluation of the objective.
    """
    parameters = x.new_zeros((x.shape[1] + 1) * classes)
    slopes = parameters.grad = torch.zeros_like(parameters)
    classifier, gradient = (
        Classifier(vector[:-classes].view(classes, -1), vector[-classes:]) for vector in (parameters, slopes)
    )

    def objective() -> Tensor:
        check_stop()
        return _objective(classifier, gradient, x, y, l2)

    objective()
    if slopes.isfinite().all():  # the embeddings of a diverging student get the accuracy of a guess, not an error
        optimizer = torch.optim.LBFGS(
            [parameters],
            max_iter=most_iterations,
            max_eval=4 * most_iterations,
            tolerance_grad=tolerance,
            tolerance_change=0.0,
            history_size=10,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(objective)  # type: ignore[no-untyped-call]
    return classifier


def _objective(classifier: Classifier, gradient: Classifier, x: Tensor, y: Tensor, l2: float) -> Tensor:
    """The objective, float64; writes the gradient of the classifier's parameters into ``gradient``."""
    weight, logits = classifier.weight, classifier.logits(x)
    nats = functional.cross_entropy(logits, y, reduction="none")
    errors, target = torch.softmax(logits, dim=1), y.unsqueeze(1)
    errors.scatter_add_(1, target, errors.new_full((1, 1), -1.0).expand_as(target)).div_(len(x))
    torch.mm(errors.T, x, out=gradient.weight).add_(weight, alpha=l2)
    torch.sum(errors, dim=0, out=gradient.bias)
    # float64: the line search compares values that differ in their last digits.
    return nats.double().mean() + weight.double().square().sum() * (l2 / 2)
