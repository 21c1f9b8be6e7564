"""How a run compares wide outputs, decided once on its device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rt_scale.experiments.objectives import compared_views
from rt_scale.experiments.remembered import once
from rt_scale.experiments.settings import Execution
from rt_scale.spec.bottleneck import factored, part_flags
from rt_scale.spec.run import RunSpec
from rt_scale.training.distillation import product_dtype, whole_because
from rt_scale.training.wide_choice import TORCH, choose


def decided(spec: RunSpec, execution: Execution, earlier: Mapping[str, Any] | None) -> Execution:
    """``execution`` with that choice made, in the precision that is set; where nothing is wide, without a trial.

    Args:
        spec: the run.
        execution: how the rest is done.
        earlier: the record of this run's first attempt, or None: its choice is kept, so that a resumed run's numbers
            are those of an undisturbed one. Where there was no choice yet, torch was it.
    """
    if spec.kind != "distill":
        return execution
    head, begun = spec.projector, earlier.get("wide", TORCH) if earlier else None
    whole = whole_because(spec.objective.name, compared_views(spec), factored=factored(part_flags(head.parts)))
    if whole:
        return dataclasses.replace(execution, wide=TORCH, wide_reason=whole)
    share = -(-spec.train.batch_size // execution.workers)
    product = product_dtype(spec.precision)
    of = (execution.device, share, head.out_dim, head.bottleneck, product, begun)
    name, reason = once(("wide_output", spec.precision, *of), lambda: choose(*of))
    return dataclasses.replace(execution, wide=name, wide_reason=reason)
