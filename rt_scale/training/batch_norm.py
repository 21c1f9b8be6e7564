"""Batch norms whose batch is the global one of all ranks."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rt_scale.training.distributed import Group, differentiable_sum

Model = TypeVar("Model", bound=nn.Module)


class GlobalBatchNorm(_BatchNorm):
    """A batch norm over the images of all ranks, on any device: what ``torch.nn.SyncBatchNorm`` is on GPUs alone.

    Mean and variance are sums over ranks that gradients flow through; the variance is summed around the global mean,
    so that nothing cancels. Rows of a stand-in (``Group.counts``) count for nothing.

    Args:
        like: takes over its parameters, its running statistics and its mode.
        group: the ranks.
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
        # As torch does under autocast: a short dtype is normalised in the parameters' one.
        wide = input.to(torch.promote_types(input.dtype, self.weight.dtype))
        # In double, as torch accumulates on the CPU: a sum over ranks is rounded otherwise than one over all images.
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
    """Make every batch norm of ``model``, in place, one over all ranks; with one rank nothing is changed.

    On GPUs they become torch's own ``SyncBatchNorm``, which is faster but would count a stand-in's rows.

    Args:
        model: on its device.
        group: the ranks.
        stand_ins: whether some rank has a batch without a share.

    Returns:
        ``model``.
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
