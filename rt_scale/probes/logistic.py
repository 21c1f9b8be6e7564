"""The logistic probe: multinomial logistic regression to convergence, a screen beside the paper's probes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rt_scale.probes.linear import Classifier
from rt_scale.probes.statistics import centre_and_scale
from rt_scale.spec.stopping import Heed, go_on

MOST_ITERATIONS = 2000


class LogisticFit(NamedTuple):
    """What ``fit_logistic`` arrives at.

    Attributes:
        classifier: of the embeddings that were given.
        gradient: largest absolute partial derivative of the objective there.
        iterations: of L-BFGS.
    """

    classifier: Classifier
    gradient: float
    iterations: int


@torch.no_grad()
def logistic_probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    classes: int,
    l2: float = 1e-3,
    heed: Heed = go_on,
) -> float:
    """Test accuracy of multinomial logistic regression at its optimum.

    The optimum is unique: unlike the linear probe's classifier it depends on no seed, order or number
    of epochs.

    Args:
        train_x: float [N, D].
        train_y: int64 [N], in [0, classes).
        test_x: float [M, D], of the same dtype and on the same device.
        test_y: int64 [M].
        classes: number of classes.
        l2: as in ``fit_logistic``, on embeddings scaled to a mean variance of 1.
        heed: as in ``fit_logistic``.

    Returns:
        The share of test samples that are given their class, in [0, 1].
    """
    train_z, test_z = centre_and_scale(train_x, test_x)
    fit = fit_logistic(train_z, train_y, classes=classes, l2=l2, heed=heed)
    return fit.classifier.accuracy(test_z, test_y)


@torch.no_grad()
def fit_logistic(
    x: Tensor,
    y: Tensor,
    *,
    classes: int,
    l2: float = 1e-3,
    tolerance: float = 3e-5,
    most_iterations: int = MOST_ITERATIONS,
    heed: Heed = go_on,
) -> LogisticFit:
    """The minimum over W and b of mean cross entropy + l2 / 2 |W|^2, by full-batch L-BFGS from zero.

    scikit-learn's ``LogisticRegression`` at ``C = 1 / (l2 * N)``. Strong Wolfe line search, 10 stored
    steps, everything on the device and in the embeddings' dtype. It ends where no partial derivative is
    larger than ``tolerance``, about what float32 can tell from zero on centred and scaled embeddings
    (scikit-learn's default is 1e-4), where rounding lets the line search go no further, or after
    ``most_iterations``.

    Args:
        x: float [N, D]; centred and scaled ones (``centre_and_scale``) converge fastest.
        y: int64 [N], in [0, classes), on the same device.
        classes: number of classes.
        l2: strength of the penalty on the weights, not on the biases; > 0.
        tolerance: of the gradient.
        most_iterations: of L-BFGS.
        heed: called before the objective is computed each time.
    """
    width = x.shape[1]
    parameters = x.new_zeros((width + 1) * classes)
    parameters.grad = torch.zeros_like(parameters)
    classifier, gradient = _views(parameters, classes, width), _views(parameters.grad, classes, width)

    def objective() -> Tensor:
        heed()
        nats = torch.nn.functional.cross_entropy(classifier.logits(x), y, reduction="none")
        _write_gradient(gradient, classifier, x, y)
        gradient.weight.add_(classifier.weight, alpha=l2)
        # The line search compares values that differ in their last digits: no rounding in the sums.
        return nats.double().mean() + classifier.weight.double().square().sum() * (l2 / 2)

    objective()
    if not parameters.grad.isfinite().all():
        # Embeddings of a student that diverges: they get the accuracy of a guess, not a traceback.
        return LogisticFit(classifier, float("nan"), 0)
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
    objective()  # the gradient left behind is that of the last point tried
    iterations = int(optimizer.state[parameters]["n_iter"])
    return LogisticFit(classifier, parameters.grad.abs().max().item(), iterations)


def _write_gradient(gradient: Classifier, classifier: Classifier, x: Tensor, y: Tensor) -> None:
    """Write the gradient of the mean cross entropy over embeddings [B, D] and labels [B]."""
    errors = torch.softmax(classifier.logits(x), dim=1)
    target = y.unsqueeze(1)
    errors.scatter_add_(1, target, errors.new_full((1, 1), -1.0).expand_as(target))
    errors.div_(len(x))
    torch.mm(errors.T, x, out=gradient.weight)
    torch.sum(errors, dim=0, out=gradient.bias)


def _views(vector: Tensor, classes: int, width: int) -> Classifier:
    """The weight [classes, width] and the bias [classes] that lie in ``vector`` one after the other."""
    return Classifier(vector[: classes * width].view(classes, width), vector[classes * width :])
