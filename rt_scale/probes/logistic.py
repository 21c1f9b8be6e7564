"""The logistic probe: multinomial logistic regression to convergence, a screen beside the paper's probes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rt_scale.probes.linear import Classifier
from rt_scale.spec.stopping import StopCheck, no_check


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
    regression = _Regression(x, y, classes, l2, check_stop)
    regression.minimise(tolerance, most_iterations)
    return regression.classifier


class _Regression:
    """A classifier of embeddings x [N, D] with labels y [N], whose parameters are views of one vector."""

    def __init__(self, x: Tensor, y: Tensor, classes: int, l2: float, check_stop: StopCheck) -> None:
        self.x, self.y, self.l2, self.check_stop = x, y, l2, check_stop
        self.parameters = x.new_zeros((x.shape[1] + 1) * classes)
        self.slopes = self.parameters.grad = torch.zeros_like(self.parameters)
        self.classifier, self.gradient = (
            Classifier(vector[:-classes].view(classes, -1), vector[-classes:])
            for vector in (self.parameters, self.slopes)
        )

    def minimise(self, tolerance: float, most_iterations: int) -> None:
        self.objective()
        if not self.slopes.isfinite().all():
            return  # the embeddings of a diverging student get the accuracy of a guess, not an error
        optimizer = torch.optim.LBFGS(
            [self.parameters],
            max_iter=most_iterations,
            max_eval=4 * most_iterations,
            tolerance_grad=tolerance,
            tolerance_change=0.0,
            history_size=10,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(self.objective)  # type: ignore[no-untyped-call]

    def objective(self) -> Tensor:
        """The objective, float64; writes the gradient of the parameters."""
        self.check_stop()
        weight, logits = self.classifier.weight, self.classifier.logits(self.x)
        nats = functional.cross_entropy(logits, self.y, reduction="none")
        errors, target = torch.softmax(logits, dim=1), self.y.unsqueeze(1)
        errors.scatter_add_(1, target, errors.new_full((1, 1), -1.0).expand_as(target)).div_(len(self.x))
        torch.mm(errors.T, self.x, out=self.gradient.weight).add_(weight, alpha=self.l2)
        torch.sum(errors, dim=0, out=self.gradient.bias)
        # float64: the line search compares values that differ in their last digits.
        return nats.double().mean() + weight.double().square().sum() * (self.l2 / 2)
