"""Runs that start from runs, as a graph: what there is to compute, each once, in an order that works."""

from __future__ import annotations

from collections.abc import Iterable

from rt_scale.spec.run import RunSpec


def all_runs(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """The runs of ``specs`` and every run that they need, each once, none before what it starts from.

    Args:
        specs: in the order in which they are wanted, which is kept as far as what they need allows.
    """
    found: dict[str, RunSpec] = {}
    for spec in specs:
        _add(spec, found)
    return list(found.values())


def _add(spec: RunSpec, found: dict[str, RunSpec]) -> None:
    # Asked before going deeper: two starts from one run a level would else double the walk at every level.
    if spec.name in found:
        return
    for start in spec.starts:
        _add(start.run, found)
    found[spec.name] = spec
