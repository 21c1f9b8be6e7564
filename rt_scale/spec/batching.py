"""Which runs can train as one batched network."""

from __future__ import annotations

from collections.abc import Sequence

from rt_scale.spec.part import Part, json_text
from rt_scale.spec.run import RunSpec

IN_COMMON = ("kind", "data", "encoder", "projector", "augment", "train.batch_size", "precision")
"""What batched runs must share; all other fields may differ: seeds, starts, objectives, optimisers, lengths, probes."""


def batch_key(spec: RunSpec) -> str:
    """A text that is equal for two runs that can be batched together, unless ``alone_because`` excludes them."""
    return " ".join(_text(spec, name) for name in IN_COMMON)


def batch_problem(specs: Sequence[RunSpec]) -> str:
    """Why these runs cannot train as one batched network; empty if they can."""
    for spec in specs:
        if reason := spec.alone_because:
            return f"{spec.name} must train alone: its {reason}"
    for name in IN_COMMON:
        if len({_text(spec, name) for spec in specs}) > 1:
            return f"they differ in {name}"
    return ""


def same_images(specs: Sequence[RunSpec]) -> bool:
    """Whether batched runs see the same views of the same images at every step."""
    return len({(spec.seeds.data, spec.seeds.ordering) for spec in specs}) == 1


def _text(spec: RunSpec, name: str) -> str:
    value: object = spec
    for part in name.split("."):
        value = getattr(value, part, None)
    return value.canonical_text if isinstance(value, Part) else json_text(value)
