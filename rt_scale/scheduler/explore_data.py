"""What only the data sets tell of an exploration: whether its metric is measured, and how long its runs are."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rt_scale.data.prepared import KnownData
from rt_scale.spec.errors import InputError
from rt_scale.spec.explore import ExploreSpec, check_length
from rt_scale.spec.metrics import parse_probe_name
from rt_scale.spec.run import RunSpec


def check_on_data(explore: ExploreSpec, specs: Iterable[RunSpec], known: KnownData) -> None:
    """Refuse a probe on images without labels, and a grace in steps as long as a run.

    Args:
        explore: the section.
        specs: every run of the grid, or at the corners of the space.
        known: their data sets; one that nothing is known of passes.

    Raises:
        InputError: naming the data set, or both lengths.
    """
    probe = parse_probe_name(explore.metric)
    for spec in specs:
        info = known.main(spec)
        if info is None:
            continue
        if probe is not None and probe.data is None and not info.labelled:
            raise InputError(
                f"explore.metric {explore.metric} is never measured: {spec.data.name} has no labels to probe with. "
                "Name a set with labels in probe.also, and its metric here, e.g. probe@cifar10/student/linear."
            )
        if explore.stop is not None:
            images = spec.data.samples or info.train
            check_length(explore.stop, spec, math.ceil(images / spec.train.batch_size))
