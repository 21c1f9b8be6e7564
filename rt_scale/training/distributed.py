"""Ranks of data-parallel training, their sums and their batch norms; one process needs no torch.distributed.

A spec's batch size is the global one; every rank computes on its share. Shares differ by at most one image, and in a
last batch of fewer images than ranks some are empty. So a rank's loss, a mean over its share, is weighted by the
share's size before the backward pass, and gradients are summed: the gradient of the mean over the global batch.

torch's DistributedDataParallel is not used: it divides by the number of ranks whatever their shares are, and needs
all calls to go through ``forward``, while a network here has several entry points.

A rank with an empty share computes on a stand-in image of weight 0, so that all ranks issue the same reductions in the
same order and no layer has to handle an empty batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rt_scale.data.loaders.base import Batch, Loader
from rt_scale.spec.errors import RunError
from rt_scale.spec.stopping import Stop, StopCheck, Stopped

T = TypeVar("T")

BUCKET_BYTES = 64 << 20
"""Gradients are summed in flat buffers of about this size; a larger gradient has its own buffer."""


class WorkerLost(RunError):
    """Another rank ended; the run can be resumed from its last checkpoint with all ranks."""


class Group:
    """The ``world`` processes that train one student: with more than one, torch.distributed's default group.

    Attributes:
        counts: 1, or 0 while this rank computes on a stand-in.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}; ranks count from 0")
        self.rank, self.world = rank, world
        self.counts = 1

    @staticmethod
    def current() -> Group:
        """The group of torch.distributed's default process group; a world of 1 without one."""
        if not torch_dist.is_initialized():
            return Group()
        return Group(torch_dist.get_rank(), torch_dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone writes."""
        return self.rank == 0

    def share(self, batch: Batch, loader: Loader, number: int) -> tuple[Batch, float]:
        """The images that this rank computes on, and the weight of their mean in the mean over the global batch.

        ``batch`` is this rank's share, possibly empty, of batch ``number`` of an epoch.
        """
        if self.world == 1:
            return batch, 1.0
        self.counts = int(len(batch.index) > 0)
        total = min(loader.batch_size, loader.samples - number * loader.batch_size)
        return (batch if self.counts else _stand_in(batch)), len(batch.index) / total

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of ``tensor``, of one shape and dtype on all ranks, over them, in place; no gradient."""
        if self.world > 1:
            with _lost():
                torch_dist.all_reduce(tensor)
        return tensor

    def any(self, found: bool) -> bool:
        """Whether ``found`` holds on any rank; every rank calls this."""
        if self.world == 1:
            return found
        return bool(self.sum(torch.tensor([float(found)], device=_device())).item())

    def stop_check(self, stop: Stop) -> StopCheck:
        """A check that raises Stopped on every rank if ``stop`` holds on any; all ranks call it at the same points."""

        def check_stop() -> None:
            if self.any(stop()):
                raise Stopped

        return check_stop

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients, already weighted by this rank's share, by their sums over all ranks."""
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for bucket in _buckets(gradients):
            flat = self.sum(torch.cat([gradient.flatten() for gradient in bucket]))
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            torch._foreach_copy_(bucket, [part.view(each.shape) for part, each in zip(parts, bucket, strict=True)])

    def mean_of_rows(self, rows: Tensor) -> Tensor:
        """The mean [m] over the rows [b, m] of all ranks, without those of stand-ins; no gradient."""
        if self.world == 1:
            return rows.detach().mean(dim=0)
        total = torch.cat([rows.detach().sum(dim=0), rows.new_tensor([len(rows)])]) * self.counts
        self.sum(total)
        return total[:-1] / total[-1]

    def broadcast(self, value: T) -> T:
        """Rank 0's ``value``; small and picklable."""
        if self.world == 1:
            return value
        given: list[Any] = [value]
        with _lost():
            torch_dist.broadcast_object_list(given, src=0)
        found: T = given[0]
        return found

    def by_first(self, work: Callable[[], T]) -> T:
        """The result of ``work``, small and picklable, computed on rank 0; if it raises Stopped, every rank does."""
        done: tuple[bool, T | None] = (False, None)
        if self.leads:
            try:
                done = (False, work())
            except Stopped:
                done = (True, None)
        stopped, value = self.broadcast(done)
        if stopped:
            raise Stopped
        return value  # type: ignore[return-value]

    @torch.no_grad()
    def check_same(self, parameters: Iterable[Tensor]) -> None:
        """Raise RunError if a rank holds other parameters than rank 0: parameters are never sent between ranks."""
        own = float(torch.stack([parameter.double().abs().sum() for parameter in parameters]).sum())
        first = self.broadcast(own)
        if self.any(own != first):  # rank 0 sees its own number in any case
            raise RunError(
                f"The {self.world} workers of this run start from different weights: their machines or versions "
                "compute the same draws differently. Give it workers of one kind, or one worker."
            )


ALONE = Group()
"""One process."""


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return group.sum(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        group: Group = ctx.group
        # The objective of every rank depends on the sum, and so on this rank's term.
        return group.sum(grads[0].clone()), None


def differentiable_sum(tensor: Tensor, group: Group) -> Tensor:
    """The sum of a float ``tensor`` over all ranks, through which gradients of the ranks' summed objectives flow."""
    total: Tensor = _Sum.apply(tensor, group)
    return total


def _stand_in(empty: Batch) -> Batch:
    """One image, neither constant nor black: a norm or deviation of 0 would be divided by."""
    shape = empty.images.shape[1:]
    ramp = torch.arange(shape.numel(), device=empty.images.device) % 251
    return Batch(ramp.to(empty.images.dtype).view(1, *shape), empty.labels.new_zeros(1), empty.index.new_zeros(1))


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if bucket and (held + size > BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += size
    if bucket:
        yield bucket


def _device() -> torch.device:
    """The device that the backend can reduce small tensors on."""
    return torch.device("cuda" if torch_dist.get_backend() == "nccl" else "cpu")


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch has no class for errors of gloo; that of nccl is a RuntimeError too
        detail = " ".join(str(error).split())[:200]
        raise WorkerLost(
            f"Another worker of this run ended ({detail}). Its checkpoints are kept: run it again to continue from its "
            "last checkpoint."
        ) from error


Model = TypeVar("Model", bound=nn.Module)


class GlobalBatchNorm(_BatchNorm):
    """A batch norm over the images of all ranks, on any device; ``torch.nn.SyncBatchNorm`` supports only GPUs.

    Gradients flow through the sums over ranks; the variance is summed around the global mean, so that nothing cancels.
    Rows of a stand-in have weight 0. Parameters, running statistics and mode are those of ``like``.
    """

    def __init__(self, like: _BatchNorm, group: Group) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, device="meta")
        self.weight, self.bias = like.weight, like.bias
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked
        self.group = group
        self.train(like.training)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from 2 on."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalised ``input`` [B, C, ...], in its dtype."""
        if not self.training:
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        # As torch does under autocast: bfloat16 is normalised in the parameters' dtype.
        wide = input.to(torch.promote_types(input.dtype, self.weight.dtype))
        # In double, as torch accumulates on the CPU: in float32 a sum over ranks and one over all images would differ.
        count = wide.new_tensor([wide.numel() // wide.shape[1]], dtype=torch.float64)
        total = wide.sum(dims, dtype=torch.float64)
        sums = differentiable_sum(torch.cat([total, count]) * self.group.counts, self.group)
        number = sums[-1].detach()
        if number < 2:
            raise ValueError(f"a batch norm needs more than {int(number)} value a channel in training")
        mean = sums[:-1] / number
        centred = wide - mean.to(wide.dtype).view(shape)
        squares = centred.square().sum(dims, dtype=torch.float64)
        variance = differentiable_sum(squares * self.group.counts, self.group) / number
        self._follow(mean.detach(), variance.detach() * number / (number - 1))
        scale = torch.rsqrt(variance + self.eps).to(wide.dtype) * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


def with_global_statistics(model: Model, group: Group, *, stand_ins: bool) -> Model:
    """``model`` with every batch norm replaced, in place, by one over all ranks; with one rank nothing is changed.

    On GPUs that is torch's ``SyncBatchNorm``, which is faster but counts the rows of stand-ins; so it is not used with
    ``stand_ins``, if some batch has no image for some rank.
    """
    if group.world == 1:
        return model
    if next(model.parameters()).is_cuda and not stand_ins:
        converted: Model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, name, GlobalBatchNorm(child, group))
    return model
