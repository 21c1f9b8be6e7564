"""Steps that are issued one by one where CUDA graphs were to replay them, which the user should know."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from rt_scale.experiments.context import Context
from rt_scale.probes.evaluator import Prober
from rt_scale.training.accelerate.graphed import GraphedNetwork


def tell_of_plain_steps(context: Context, student: nn.Module, probers: Mapping[str | None, Prober]) -> None:
    """Record and warn where there is no graph although one was to be; each part is told of once.

    Args:
        context: of the run.
        student: as it is trained.
        probers: by data set, after they have probed; None names the one that is distilled on.
    """
    if isinstance(student, GraphedNetwork) and student.plain_because is not None:
        context.slower("student's pass", student.plain_because)
    for data, prober in probers.items():
        if (reason := prober.linear.plain_because) is not None:
            context.slower("linear probe" if data is None else f"linear probe on {data}", reason)
