"""Probes that are trained in the slower way than was meant, which the user should know."""

from __future__ import annotations

from collections.abc import Mapping

from rt_scale.experiments.context import Context
from rt_scale.probing.prober import Prober


def tell_of_plain_probes(context: Context, probers: Mapping[str | None, Prober]) -> None:
    """Record and warn where a linear probe's steps are issued one by one although a CUDA graph was to replay them.

    Args:
        context: of the run; each data set is told of once.
        probers: by data set, after they have probed; None names the one that is distilled on.
    """
    for data, prober in probers.items():
        if (reason := prober.linear.plain_because) is not None:
            context.slower("linear probe" if data is None else f"linear probe on {data}", reason)
