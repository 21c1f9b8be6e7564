"""The least time that parts of a run can take on a device: FLOPs and bytes over rates measured in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from lib.timeline import CACHE, CHECKPOINTS, ENCODER, LOADING, ONCE, OPTIMISER, PROBES, WHOLE, WIDE
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from rt_scale.data.meta import DataInfo
from rt_scale.experiments.flops import meta_network
from rt_scale.spec.run import RunSpec
from rt_scale.training.precision import parameter_dtype, product_dtype

SIDE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices whose product is timed."""
MAPS = {"cpu": (64, 256, 8), "cuda": (2048, 512, 8)}
"""Images, channels and side of the maps whose 3 x 3 convolution is timed."""
COPIED = {"cpu": 64 << 20, "cuda": 2 << 30}
"""Bytes of the block whose copy is timed."""


class Rates(NamedTuple):
    """What the device was measured to do.

    Attributes:
        flops: FLOPs a second, in the run's precision, of a matrix product or a convolution, whichever has more.
        traffic: bytes read and written a second by a copy.
        products: FLOPs a second of a matrix product outside of autocast, as probes multiply.
    """

    flops: float
    traffic: float
    products: float


class Floor(NamedTuple):
    """The least a part has to do, over the whole run.

    Attributes:
        flops: of matrix products and convolutions, a multiplication and an addition being two.
        traffic: bytes that must be read or written even where every intermediate value stays in a cache.
        products: FLOPs of matrix products outside of autocast.
    """

    flops: float = 0.0
    traffic: float = 0.0
    products: float = 0.0

    def seconds(self, rates: Rates) -> float:
        """Arithmetic and traffic at once, at full speed."""
        return max(self.flops / rates.flops + self.products / rates.products, self.traffic / rates.traffic)


def measure_rates(
    device: torch.device, precision: str, repeats: int = 5, clock: Callable[[], float] = time.perf_counter
) -> Rates:
    """A product, a convolution and a copy, fastest of ``repeats`` after one as warm-up; ``clock`` as for a timeline."""
    side, plain, short = SIDE[device.type], parameter_dtype(precision), product_dtype(precision)
    block = torch.ones(COPIED[device.type], device=device, dtype=torch.uint8)
    there = torch.empty_like(block)
    images, channels, size = MAPS[device.type]
    # In the dtype that autocast would make of them: casting is no part of the product.
    maps, kernels = (
        torch.randn(shape, device=device, dtype=short).to(memory_format=torch.channels_last)
        for shape in ((images, channels, size, size), (channels, channels, 3, 3))
    )

    def product(dtype: torch.dtype) -> float:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        return 2 * side**3 / _fastest(lambda: torch.mm(a, b), device, repeats, clock)

    convolution = _fastest(lambda: functional.conv2d(maps, kernels, padding=1), device, repeats, clock)
    copy = _fastest(lambda: there.copy_(block), device, repeats, clock)
    flops = max(product(short), 2 * 9 * images * (channels * size) ** 2 / convolution)
    return Rates(flops, 2 * block.numel() / copy, product(plain))


def _fastest(function: Callable[[], Tensor], device: torch.device, repeats: int, clock: Callable[[], float]) -> float:
    def once() -> float:
        start = clock()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    return min([once() for _ in range(repeats + 1)][1:])


class Counts(NamedTuple):
    """FLOPs of a network, an image.

    Attributes:
        encoder: forward.
        encoder_training: forward and backward.
        head: the projector but for its last layer, forward.
        head_training: forward and backward.
        last: the last layer, forward; its training takes three times that.
    """

    encoder: float
    encoder_training: float
    head: float
    head_training: float
    last: float


def count_network(spec: RunSpec, info: DataInfo) -> Counts:
    """Counted by ``torch.utils.flop_counter`` on tensors without memory."""
    rows, size = 2, spec.data.size or info.size
    network = meta_network(spec, info).train()
    images = torch.empty(rows, info.channels, size, size, device="meta", dtype=parameter_dtype(spec.precision))
    embedding = images.new_empty(rows, network.encoder.embed_dim).requires_grad_()
    features = images.new_empty(rows, network.projector.feature_width).requires_grad_()

    def flops(function: Callable[[], Tensor], backward: bool) -> float:
        with FlopCounterMode(display=False) as counter:
            out = function()
            if backward:
                torch.autograd.backward(out.sum())
        return counter.get_total_flops() / rows

    def encode() -> Tensor:
        out: Tensor = network.encoder(images)
        return out

    def project() -> Tensor:
        return network.projector.features(embedding)

    return Counts(
        flops(encode, False), flops(encode, True), flops(project, False), flops(project, True),
        flops(lambda: network.projector.logits(features), False),
    )  # fmt: skip


def count_floors(spec: RunSpec, info: DataInfo, evaluations: int, checkpoints: int, epochs: float) -> dict[str, Floor]:
    """What each part of a whole run of ``spec`` has to do at least, by the names of ``timeline``.

    Args:
        spec: a run that distils one view of every image from a constant teacher, as the paper's do.
        info: of its data set.
        evaluations: of the student, and beside them one each of the teacher and of the input.
        checkpoints: that were written.
        epochs: of training that are timed.
    """
    each, images = count_network(spec, info), spec.data.samples or info.train
    network = meta_network(spec, info)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    seen, pixels = images * epochs, info.channels * info.size**2
    steps = epochs * -(-images // spec.train.batch_size)
    item, m = parameter_dtype(spec.precision).itemsize, spec.projector.out_dim
    logit = product_dtype(spec.precision).itemsize
    embedding = (images + info.test) * each.encoder
    probing = _probing(spec, info, images, network.encoder.embed_dim)
    encoder = Floor(seen * each.encoder_training)
    # Two tensors of batch x m are written and read: the teacher's and the student's.
    wide = Floor(seen * (each.head_training + 4 * each.last), seen * 4 * m * logit)
    return {
        ENCODER: encoder,
        WIDE: wide,
        WHOLE: Floor(encoder.flops + wide.flops, wide.traffic),
        # Parameters, gradients and both moments are read, all but the gradients written.
        OPTIMISER: Floor(0.0, steps * 7 * weights),
        # Bytes are read and written where they are gathered, then read, and written as numbers.
        LOADING: Floor(0.0, seen * pixels * (3 + item)),
        CACHE: Floor(images * (each.encoder + each.head)),
        PROBES: Floor(evaluations * embedding, products=evaluations * probing),
        ONCE: Floor(embedding, products=probing + _probing(spec, info, images, pixels)),
        CHECKPOINTS: Floor(0.0, checkpoints * 3 * weights),
    }


def _probing(spec: RunSpec, info: DataInfo, images: int, width: int) -> float:
    """FLOPs of the linear and the nearest-neighbour probe on vectors of ``width``."""
    probe = spec.probe
    linear = 4.0 * probe.epochs * images * width * len(info.classes) * probe.linear
    neighbours = 2.0 * images * info.test * width * bool(probe.knn)
    return (linear + neighbours) * (2 if probe.standardized else 1)
