"""The linear probe: all linear classifiers of an evaluation, trained as one batched problem."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rt_scale.data.loaders.base import to_device
from rt_scale.probes.statistics import mean_and_deviation
from rt_scale.spec.errors import first_line
from rt_scale.spec.stopping import StopCheck, no_check

GRAPHED_ON = ("cuda",)
"""Device types on which a step is replayed as a graph and buffers are kept between evaluations."""

Step = Callable[[Tensor], None]
"""Updates the classifiers on rows int64 [P, B]."""


class Classifier(NamedTuple):
    """A linear classifier: weight [C, D] and bias [C]."""

    weight: Tensor
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """[B, C] from embeddings [B, D]."""
        return torch.addmm(self.bias, x, self.weight.T)

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """The share of embeddings [B, D] whose largest logit is that of their class int64 [B], in [0, 1]."""
        return (self.logits(x).argmax(dim=1) == y).sum().item() / len(y)


class Problem(NamedTuple):
    """Embeddings x [N, D] and classes y int64 [N] to train on, and the seed of initial weights and orders."""

    x: Tensor
    y: Tensor
    seed: int


class Sizes(NamedTuple):
    """Sizes of the buffers: P problems, V classifiers on each, N embeddings of D dimensions, C classes."""

    problems: int
    views: int
    samples: int
    width: int
    classes: int
    dtype: torch.dtype
    device: torch.device


def sizes_of(problems: Sequence[Problem], classes: int, views: int) -> Sizes:
    """The common sizes of problems; ValueError if embeddings differ in shape, dtype or device."""
    kinds = {(problem.x.shape, problem.x.dtype, problem.x.device) for problem in problems}
    if len(kinds) != 1:
        raise ValueError(
            f"only embeddings of one shape, dtype and device are probed together, not {sorted(kinds, key=str)}"
        )
    (((samples, width), dtype, device),) = kinds
    return Sizes(len(problems), views, samples, width, classes, dtype, device)


class BatchedClassifiers:
    """V linear classifiers in training on each of P sets of embeddings: on raw, then on standardised embeddings.

    Raw and standardised embeddings are two affine views of the same centred rows, ``scale * row + shift`` with
    (1, mean) and (1 / deviation, 0). A step gathers rows once and folds the views into the weights:
    W (scale * row + shift) + b is (W * scale) row + (W shift + b), whose gradient for W is
    (g row^T) * scale + g shift^T. Rows are centred, because rows far from the origin would add rounding errors to the
    standardised view.

    The gradient of the cross entropy is explicit, (softmax - onehot) / B: autograd's overhead would exceed the
    arithmetic. Logits are [C, B]: a CPU's softmax of rows of 10 numbers takes longer than the matrix product before it.
    All parameters are views of one vector, so that AdamW updates one tensor.
    """

    def __init__(self, sizes: Sizes, lr: float) -> None:
        self.sizes = sizes
        p, v, c, d = sizes.problems, sizes.views, sizes.classes, sizes.width
        like = torch.empty(0, dtype=sizes.dtype, device=sizes.device)
        self._rows = like.new_zeros((p, sizes.samples, d))
        self._labels = torch.zeros((p, sizes.samples), dtype=torch.int64, device=sizes.device)
        self._scale, self._shift = like.new_ones((p, v, 1, d)), like.new_zeros((p, v, 1, d))
        self._minus_one = like.new_full((1, 1, 1, 1), -1.0)
        self._parameters = like.new_zeros(p * v * c * (d + 1))
        self._parameters.grad = torch.zeros_like(self._parameters)
        self._weight, self._bias = self._views(self._parameters)
        self._weight_gradient, self._bias_gradient = self._views(self._parameters.grad)
        on_gpu = sizes.device.type == "cuda"
        self._optimizer = torch.optim.AdamW([self._parameters], lr=lr, fused=True, capturable=on_gpu)

    def load(self, problems: Sequence[Problem], starts: Sequence[Tensor]) -> None:
        """Start with new problems of ``sizes``; each start has weights, then biases, float [C (D + 1)]."""
        split = self.sizes.classes * self.sizes.width
        for p, (problem, start) in enumerate(zip(problems, starts, strict=True)):
            mean, deviation = mean_and_deviation(problem.x)
            torch.sub(problem.x, mean, out=self._rows[p])
            self._labels[p] = problem.y
            self._shift[p, 0, 0] = mean
            if self.sizes.views > 1:
                self._scale[p, 1, 0] = deviation.reciprocal()
            self._weight[p] = start[:split].view(self._weight.shape[2:])
            self._bias[p] = start[split:]
        for tensor in self._optimizer.state[self._parameters].values():
            tensor.zero_()

    def rows_of(self, orders: Sequence[Tensor]) -> Tensor:
        """The rows int64 [P, N] for ``step`` from an order int64 [N] of each problem's embeddings."""
        offsets = torch.arange(self.sizes.problems).unsqueeze(1) * self.sizes.samples
        return to_device(torch.stack(list(orders)) + offsets, self.sizes.device)

    def step(self, index: Tensor) -> None:
        """Update every classifier once, on rows int64 [P, B]."""
        p, batch = index.shape
        v, c, d = self.sizes.views, self.sizes.classes, self.sizes.width
        flat = index.flatten()
        x = self._rows.view(-1, d).index_select(0, flat).view(p, batch, d)
        y = self._labels.view(-1).index_select(0, flat).view(p, 1, 1, batch).expand(p, v, 1, batch)
        bias = torch.baddbmm(
            self._bias.view(p * v, c, 1), self._weight.view(p * v, c, d), self._shift.view(p * v, d, 1)
        )
        weight = self._weight * self._scale
        logits = torch.baddbmm(bias.view(p, v * c, 1), weight.view(p, v * c, d), x.mT)
        errors = torch.softmax(logits.view(p, v, c, batch), dim=2)
        errors.scatter_add_(2, y, self._minus_one.expand_as(y)).div_(batch)
        torch.sum(errors, dim=3, out=self._bias_gradient)
        slopes = torch.bmm(errors.view(p, v * c, batch), x).view(p, v, c, d)
        torch.mul(slopes, self._scale, out=self._weight_gradient)
        self._weight_gradient.addcmul_(self._bias_gradient.unsqueeze(3), self._shift)
        self._optimizer.step()

    def classifiers(self) -> list[list[Classifier]]:
        """Copies of the classifiers, by problem and view."""
        return [
            [Classifier(*each) for each in zip(*pair, strict=True)]
            for pair in zip(self._weight.clone(), self._bias.clone(), strict=True)
        ]

    def _views(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [P, V, C, D] and biases [P, V, C] as views of a vector."""
        shape = (self.sizes.problems, self.sizes.views, self.sizes.classes)
        biases = vector.numel() // (self.sizes.width + 1)
        return vector[:-biases].view(*shape, self.sizes.width), vector[-biases:].view(shape)


def replayed(step: Step, index: Tensor) -> Step:
    """``step`` as one CUDA graph: a GPU computes small steps faster than the host can launch their kernels.

    ``step`` uses the same memory every time, without host synchronisation. It runs three times on ``index``, rows
    int64 [P, B] of the shape of all replays, before the capture, in which libraries and the optimiser allocate what
    they need. RuntimeError if the capture fails.
    """
    rows, graph = index.clone(), torch.cuda.CUDAGraph()
    for _ in range(3):
        step(rows)
    # A new stream: torch's default one for captures belongs to the device of the process's first capture.
    with torch.cuda.device(index.device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step(rows)

    def replay(index: Tensor) -> None:
        rows.copy_(index)
        graph.replay()

    return replay


class LinearProbes:
    """Trains linear classifiers with AdamW on the cross entropy (paper, appendix C.1).

    Weights and biases start uniform in +-1/sqrt(D); AdamW has torch's defaults (betas 0.9 and 0.999, weight decay 0.01
    on both); every epoch has a new order; the last partial batch is a step too. Starts and orders are drawn from the
    problem's seed, so that batching changes only rounding. On a GPU, buffers and the graph of a step are reused by the
    next ``fit`` of the same sizes. With ``standardized`` every problem has a second classifier, of its embeddings
    standardised per dimension. ``steps``, if given, are as many in place of ``epochs``.

    Attributes:
        plain_because: why the capture of a graph failed, or None.
    """

    def __init__(
        self,
        classes: int,
        *,
        standardized: bool = False,
        epochs: int = 10,
        steps: int | None = None,
        batch_size: int = 256,
        lr: float = 1e-3,
    ) -> None:
        self.classes, self.views = classes, 1 + standardized
        self.epochs, self.steps, self.batch_size, self.lr = epochs, steps, batch_size, lr
        self.plain_because: str | None = None
        self._kept: tuple[BatchedClassifiers, Step] | None = None

    @torch.no_grad()
    def fit(self, problems: Sequence[Problem], check_stop: StopCheck = no_check) -> list[list[Classifier]]:
        """Train all classifiers of problems of one shape, dtype and device (else ValueError); no host synchronisation.

        Returns for every problem its classifier and, with ``standardized``, the classifier for embeddings from
        ``features.standardise``.
        """
        batched, full_step = self._batched(sizes_of(problems, self.classes, self.views))
        generators = {problem.seed: torch.Generator("cpu").manual_seed(problem.seed) for problem in problems}
        seeds = [problem.seed for problem in problems]
        starts = {seed: self._start(batched.sizes.width, generator) for seed, generator in generators.items()}
        batched.load(problems, [starts[seed] for seed in seeds])
        steps = self.steps or self.epochs * math.ceil(batched.sizes.samples / self.batch_size)
        for index in itertools.islice(self._batches(batched, generators, seeds), steps):
            check_stop()
            (full_step if index.shape[1] == self.batch_size else batched.step)(index)
        return batched.classifiers()

    def _batches(
        self, batched: BatchedClassifiers, generators: Mapping[int, torch.Generator], seeds: Sequence[int]
    ) -> Iterator[Tensor]:
        """Rows int64 [P, B] of one batch after another, of one epoch after another."""
        while True:
            orders = {seed: torch.randperm(batched.sizes.samples, generator=each) for seed, each in generators.items()}
            yield from torch.split(batched.rows_of([orders[seed] for seed in seeds]), self.batch_size, dim=1)

    def _batched(self, sizes: Sizes) -> tuple[BatchedClassifiers, Step]:
        """Buffers to ``load``, and the function for a step on a full batch."""
        if self._kept is None or self._kept[0].sizes != sizes:
            self._kept = None  # frees its memory before the new buffers are allocated
            batched = BatchedClassifiers(sizes, self.lr)
            if sizes.device.type not in GRAPHED_ON:
                return batched, batched.step
            self._kept = batched, self._full_step(batched)
        return self._kept

    def _full_step(self, batched: BatchedClassifiers) -> Step:
        sizes = batched.sizes
        if self.batch_size > sizes.samples:
            return batched.step
        index = torch.zeros((sizes.problems, self.batch_size), dtype=torch.int64, device=sizes.device)
        try:
            step, self.plain_because = replayed(batched.step, index), None
        except RuntimeError as error:
            step, self.plain_because = batched.step, f"its capture failed ({first_line(error)})"
        return step

    def _start(self, width: int, generator: torch.Generator) -> Tensor:
        """Weights [C * D] and biases [C] in one vector."""
        return torch.empty((width + 1) * self.classes).uniform_(-(width**-0.5), width**-0.5, generator=generator)
