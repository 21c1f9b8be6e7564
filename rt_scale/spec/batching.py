"""Which runs can train as one batched network."""

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
"""What batched runs must share; all other fields may differ: seeds, starts, objectives, optimisers, lengths, probes."""


def batch_key(spec: RunSpec) -> str:
    """A text that is equal for two runs that can be batched together, unless :func:`alone_because` excludes them."""
    return " ".join(_text(field(spec)) for field in IN_COMMON.values())


def alone_because(spec: RunSpec) -> str:
    """Why a run must train alone; empty if it need not.

    A student that equals its teacher bit for bit has a gradient of exactly 0 if the same kernels compute both. A
    batched network uses other kernels, and the student would learn from the rounding difference. What a user's encoder
    or objective does in a batch of networks is unknown.
    """
    if plugin := spec.encoder.plugin or spec.objective.plugin:
        return f"plugin {plugin} is for one network"
    start = spec.student
    share = start.alpha if start.epsilon is None else start.epsilon
    if spec.kind == "distill" and start.start_from is None and share == 0:
        return f"student.{'alpha' if start.epsilon is None else 'epsilon'} is 0"
    return ""


def batch_problem(specs: Sequence[RunSpec]) -> str:
    """Why these runs cannot train as one batched network; empty if they can."""
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
