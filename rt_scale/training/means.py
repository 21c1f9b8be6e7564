"""How far a run is, and what its metrics sum up to on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rt_scale.training.dist import ALONE, Group


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: completed epochs.
        step: completed optimiser steps.
        sums: of a run that was stopped within an epoch, what its metrics sum up to so far, over all ranks.
        weight: samples that ``sums`` are over.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    weight: float = 0.0


class Means:
    """Weighted means of scalar tensors, summed on the device and read once.

    Args:
        group: whose samples the means are over; every rank adds the same names.
    """

    def __init__(self, group: Group = ALONE) -> None:
        self._group = group
        self._sums: dict[str, Tensor] = {}
        self._weight = 0.0

    def add(self, values: dict[str, Tensor], weight: int) -> None:
        """Add scalar tensors that stand for ``weight`` samples; no synchronisation."""
        for name, value in values.items():
            term = value.detach().double() * weight
            self._sums[name] = self._sums[name] + term if name in self._sums else term
        self._weight += weight

    def read(self) -> dict[str, float]:
        """The means, in one transfer to the host; empty where nothing was added."""
        if not self._sums:
            return {}
        total = self._total()
        values = (total[:-1] / total[-1]).tolist()
        return dict(zip(self._sums, values, strict=True))

    def _total(self) -> Tensor:
        sums = torch.stack(list(self._sums.values()))
        return self._group.sum(torch.cat([sums, sums.new_tensor([self._weight])]))

    def save(self, progress: Progress) -> None:
        """Keep in ``progress`` what was added so far by all ranks; every rank calls this, having added something."""
        *sums, progress.weight = self._total().tolist()
        progress.sums = dict(zip(self._sums, sums, strict=True))

    def restore(self, progress: Progress, device: torch.device) -> None:
        """Go on from what :meth:`save` kept, which counts once: on rank 0."""
        counts = float(self._group.leads)
        for name, value in progress.sums.items():
            self._sums[name] = torch.tensor(value * counts, dtype=torch.float64, device=device)
        self._weight = progress.weight * counts
        progress.sums, progress.weight = {}, 0.0
