"""The linear probe: classifiers on embeddings, all of an evaluation trained as one batched problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rt_scale.probes.batched import BatchedClassifiers, Problem, Sizes
from rt_scale.probes.graphed import GraphedStep
from rt_scale.spec.stopping import Heed, go_on

_KEPT_ON = ("cuda",)
"""Kinds of devices on which buffers are kept for the graph's sake; elsewhere memory is freed between evaluations."""


class Classifier(NamedTuple):
    """A linear classifier.

    Attributes:
        weight: [C, D].
        bias: [C].
    """

    weight: Tensor
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """[B, C] from embeddings [B, D]."""
        return torch.addmm(self.bias, x, self.weight.T)

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """The share of embeddings [B, D] whose largest logit is that of their class int64 [B], in [0, 1]."""
        return (self.logits(x).argmax(dim=1) == y).sum().item() / len(y)


class LinearProbes:
    """Trains linear classifiers with AdamW on the cross entropy (paper, appendix C.1).

    Weights and biases start uniform in +-1/sqrt(D); AdamW has torch's defaults (betas 0.9 and 0.999, weight decay 0.01
    on both); every epoch has a new order; the last partial batch is a step too. Both are drawn from a problem's seed,
    so that classifiers on raw and on standardised embeddings differ by the standardisation alone, and so that the
    others in the batch change nothing but rounding.

    On a GPU buffers and the graph of a step are kept from one ``fit`` to the next of the same sizes.

    Args:
        classes: number of classes C.
        standardized: whether every problem gets a second classifier, of its embeddings standardised per dimension.
        epochs: passes over the embeddings.
        batch_size: embeddings a step.
        lr: learning rate.
    """

    def __init__(
        self,
        classes: int,
        *,
        standardized: bool = False,
        epochs: int = 10,
        batch_size: int = 256,
        lr: float = 1e-3,
    ) -> None:
        self.classes, self.standardized = classes, standardized
        self.epochs, self.batch_size, self.lr = epochs, batch_size, lr
        self._kept: tuple[BatchedClassifiers, GraphedStep] | None = None

    @torch.no_grad()
    def fit(self, problems: Sequence[Problem], heed: Heed = go_on) -> list[list[Classifier]]:
        """Train all classifiers of all problems; nothing waits for the device.

        Args:
            problems: at least one, of embeddings of one shape, dtype and device.
            heed: called before every step.

        Returns:
            For every problem the classifier of its embeddings and, where asked for, the one of its standardised
            embeddings, which takes them as ``features.standardise`` makes them.

        Raises:
            ValueError: problems of several shapes.
        """
        batched, step = self._machine(problems)
        generators = {problem.seed: torch.Generator("cpu").manual_seed(problem.seed) for problem in problems}
        seeds = [problem.seed for problem in problems]
        starts = {seed: self._start(batched.sizes.width, generator) for seed, generator in generators.items()}
        batched.load(problems, [starts[seed] for seed in seeds])
        for _ in range(self.epochs):
            orders = {seed: torch.randperm(batched.sizes.samples, generator=each) for seed, each in generators.items()}
            for index in torch.split(batched.rows_of([orders[seed] for seed in seeds]), self.batch_size, dim=1):
                heed()
                step(index)
        return [[Classifier(*each) for each in of_problem] for of_problem in batched.classifiers()]

    @property
    def plain_because(self) -> str | None:
        """Why steps are issued one by one although a graph was to replay them; None where it does, or on the CPU."""
        return None if self._kept is None else self._kept[1].plain_because

    def _machine(self, problems: Sequence[Problem]) -> tuple[BatchedClassifiers, GraphedStep]:
        sizes = Sizes.of(problems, self.classes, views=2 if self.standardized else 1)
        if self._kept is None or self._kept[0].sizes != sizes:
            self._kept = None  # frees its memory before more is taken
            batched = BatchedClassifiers(sizes, self.lr)
            step = GraphedStep(batched.step, (sizes.problems, self.batch_size), batched.state)
            if sizes.device.type not in _KEPT_ON:
                return batched, step
            self._kept = batched, step
        return self._kept

    def _start(self, width: int, generator: torch.Generator) -> Tensor:
        """Weights [C * D] and biases [C] in one vector."""
        return torch.empty((width + 1) * self.classes).uniform_(-(width**-0.5), width**-0.5, generator=generator)
