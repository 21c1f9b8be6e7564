"""How far a run is, and what its metrics sum up to on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rt_scale.training.distributed import ALONE, Group


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: completed epochs.
        step: completed optimiser steps.
        sums: of a run that was stopped within an epoch, what its metrics sum up to so far, over all ranks.
        weight: samples that ``sums`` are over.
        evaluate_first: whether the evaluation that is due after the last of these steps is still to be done.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    weight: float = 0.0
    evaluate_first: bool = False


class Means:
    """Weighted means of scalar tensors, summed on the device in float64 and read once.

    Names are fixed by the first values that are added, or gone on from.

    Args:
        group: whose samples the means are over; every rank adds the same names.
    """

    def __init__(self, group: Group = ALONE) -> None:
        self._group = group
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        self._weight = 0.0

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor], weight: int) -> None:
        """Add scalar tensors that stand for ``weight`` samples; no synchronisation.

        Raises:
            ValueError: where there are none, or others than before.
        """
        names = self._names or tuple(values)
        if not names or values.keys() != set(names):
            raise ValueError(f"means of {', '.join(names) or 'nothing'} cannot take {', '.join(values) or 'nothing'}")
        # One vector: of a small network's step on a GPU, launching an operation for every metric would be a tenth.
        terms = torch.stack([values[name] for name in names]).double().mul_(weight)
        self._names, self._sums = names, terms if self._sums is None else self._sums.add_(terms)
        self._weight += weight

    def read(self) -> dict[str, float]:
        """The means, in one transfer to the host; empty where nothing was added."""
        if self._sums is None:
            return {}
        total = self._total(self._sums)
        values = (total[:-1] / total[-1]).tolist()
        return dict(zip(self._names, values, strict=True))

    def _total(self, sums: Tensor) -> Tensor:
        return self._group.sum(torch.cat([sums, sums.new_tensor([self._weight])]))

    def save(self, progress: Progress) -> None:
        """Keep in ``progress`` what was added so far by all ranks; every rank calls this, having added something."""
        assert self._sums is not None
        *sums, progress.weight = self._total(self._sums).tolist()
        progress.sums = dict(zip(self._names, sums, strict=True))

    def restore(self, progress: Progress, device: torch.device) -> None:
        """Go on from what :meth:`save` kept, which counts once: on rank 0."""
        counts = float(self._group.leads)
        if progress.sums:
            self._names = tuple(progress.sums)
            sums = [value * counts for value in progress.sums.values()]
            self._sums = torch.tensor(sums, dtype=torch.float64, device=device)
        self._weight = progress.weight * counts
        progress.sums, progress.weight = {}, 0.0
