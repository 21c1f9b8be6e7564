"""The parts of the l2-bottleneck: which are there, written ``-/lb/fn/wn/l/-`` (paper, appendix B.2, figure 12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from rt_scale.spec.errors import cut, nearest

PARTS = {
    "weight_norm_1": "wn",
    "linear_1": "lb",
    "feature_norm_1": "fn",
    "weight_norm_2": "wn",
    "linear_2": "l",
    "feature_norm_2": "fn",
}
"""The six parts in the order in which they act, and how each is written where it is there."""
PAPER = "-/lb/fn/wn/l/-"


def parse_parts(value: Any) -> str:
    """The parts in their one spelling, from that text or from a mapping of all six names to booleans.

    Raises:
        ValueError: where a part is unknown or not told, or stands without what it needs.
    """
    flags = _from_mapping(value) if isinstance(value, Mapping) else _from_text(str(value))
    for number in (1, 2):
        if flags[f"weight_norm_{number}"] and not flags[f"linear_{number}"]:
            raise ValueError(
                f"weight norm {number} needs linear {number}, whose weights it normalises: add linear {number} or "
                f"leave weight norm {number} out"
            )
    if flags["feature_norm_1"] and flags["feature_norm_2"] and not flags["linear_2"]:
        raise ValueError(
            "feature norm 2 after feature norm 1 without linear 2 between them changes nothing: leave one out"
        )
    return "/".join(mark if flags[name] else "-" for name, mark in PARTS.items())


def part_flags(text: str) -> dict[str, bool]:
    """Which of ``PARTS`` are there in a parsed text."""
    return {name: mark != "-" for name, mark in zip(PARTS, text.split("/"), strict=True)}


def factored(flags: Mapping[str, bool]) -> bool:
    """Whether logits are features times the weight of linear 2, and nothing else is done to them."""
    return flags["linear_2"] and not flags["feature_norm_2"]


def _from_text(text: str) -> dict[str, bool]:
    marks = text.replace(" ", "").split("/")
    expected = " / ".join(f"{mark} or -" for mark in PARTS.values())
    if len(marks) != len(PARTS):
        raise ValueError(f"'{cut(text)}' has {len(marks)} parts; six are needed, {expected}; the paper's are {PAPER}")
    for place, (given, (name, mark)) in enumerate(zip(marks, PARTS.items(), strict=True), 1):
        if given not in ("-", mark):
            raise ValueError(f"part {place} of '{cut(text)}' is '{cut(given)}'; allowed for {name}: '{mark}' or '-'")
    return dict(zip(PARTS, (mark != "-" for mark in marks), strict=True))


def _from_mapping(value: Mapping[Any, Any]) -> dict[str, bool]:
    for name, given in value.items():
        if name not in PARTS:
            close = nearest(str(name), PARTS)
            guess = f" did you mean '{close}'?" if close else ""
            raise ValueError(f"unknown part '{name}';{guess} known: {', '.join(PARTS)}")
        if not isinstance(given, bool):
            raise ValueError(f"part {name} is {given!r}; allowed: true or false")
    missing = [name for name in PARTS if name not in value]
    if missing:
        raise ValueError(f"parts not told: {', '.join(missing)}; say true or false for each of the six")
    return dict(value)


BottleneckParts = Annotated[
    str,
    BeforeValidator(parse_parts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^(-|wn)/(-|lb)/(-|fn)/(-|wn)/(-|l)/(-|fn)$"},
                {"type": "object", "properties": {name: {"type": "boolean"} for name in PARTS}},
            ]
        }
    ),
]
