"""Which runs can train as one batched network, known from their specs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rt_scale.spec.part import Part, json_text
from rt_scale.spec.run import RunSpec

IN_COMMON: dict[str, Callable[[RunSpec], object]] = {
    "kind": lambda spec: spec.kind,
    "data": lambda spec: spec.data,
    "encoder": lambda spec: spec.encoder,
    "projector": lambda spec: spec.projector,
    "augment": lambda spec: spec.augment,
    "train.batch_size": lambda spec: spec.train.batch_size,
    "precision": lambda spec: spec.precision,
}
"""What batched runs share. Everything else is each one's own: seeds, start, teacher, objective, optimiser, schedules,
length, probes."""


def batch_key(spec: RunSpec) -> str:
    """Equal for runs that can be batched together, where they can be batched at all (:func:`alone_because`)."""
    return " ".join(_text(field(spec)) for field in IN_COMMON.values())


def alone_because(spec: RunSpec) -> str:
    """Why a run must train alone; empty where it need not.

    A student that starts as its teacher, bit for bit, has a gradient of exactly 0 where both are computed by the same
    kernels. The batched network's are others: it would learn from their rounding.
    """
    start = spec.student
    share = start.alpha if start.epsilon is None else start.epsilon
    if spec.kind == "distill" and start.start_from is None and share == 0:
        return f"student.{'alpha' if start.epsilon is None else 'epsilon'} is 0"
    return ""


def batch_problem(specs: Sequence[RunSpec]) -> str:
    """Why these runs cannot train as one batched network; empty where they can."""
    for spec in specs:
        if reason := alone_because(spec):
            return f"{spec.name} must train alone: its {reason}"
    for name, field in IN_COMMON.items():
        if len({_text(field(spec)) for spec in specs}) > 1:
            return f"they differ in {name}"
    return ""


def same_images(specs: Sequence[RunSpec]) -> bool:
    """Whether batched runs see the same views of the same images at every step."""
    return len({spec.seeds.data for spec in specs}) == 1


def _text(value: object) -> str:
    return value.canonical_text if isinstance(value, Part) else json_text(value)
