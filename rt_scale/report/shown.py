"""What runs vary, and how they depart from the paper's setting, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rt_scale.report.paper_numbers import data_title
from rt_scale.spec.grid import Point, axis_names, value_label
from rt_scale.spec.run import RunSpec

_START = "teacher.start_from"
_UNSHOWN = ("seeds", "probe", "data.name", "encoder.name", "encoder.norm", "data.sigma", "data.channels", _START)


def shown_values(points: Sequence[Point]) -> dict[str, dict[str, str]]:
    """Run -> shown name of an axis -> value as text; a second round is told by its number."""
    keys = [key for key in dict.fromkeys(key for point in points for key in point.values) if not key.startswith(_START)]
    rows = [dict(point.values) for point in points]
    plain = [key for key in keys if not key.startswith("probe.")]
    keys = plain + telling_keys([key for key in keys if key not in plain], rows, beside=plain)
    names = axis_names(keys)
    rounds = any(point.spec.teacher.start_from is not None for point in points)
    found = {}
    for point in points:
        values = {
            names[key]: value_text(key, point.values[key] if key in point.values else _field(point.spec, key))
            for key in keys
        }
        if rounds:
            values["round"] = "1" if point.spec.teacher.start_from is None else "2"
        found[point.spec.name] = values
    return found


def telling_keys(keys: Sequence[str], rows: Sequence[Mapping[str, Any]], beside: Sequence[str] = ()) -> list[str]:
    """The keys that tell rows apart which the keys before them, and ``beside``, do not."""
    told = [repr([row.get(key) for key in beside]) for row in rows]
    found = []
    for key in keys:
        more = [f"{before} {row.get(key)!r}" for before, row in zip(told, rows, strict=True)]
        if len(set(more)) > len(set(told)):
            told = more
            found.append(key)
    return found


def value_text(key: str, value: Any) -> str:
    """A value of the field ``key`` for readers."""
    if value is None:
        return "all" if key.endswith("samples") else "-"
    if isinstance(value, float):
        return f"{value:g}"
    if key.endswith("data.name") or key in ("data", "probed"):
        return data_title(str(value))
    if isinstance(value, list | tuple | Mapping):
        return value_label(value)
    return f"{value:,}" if key.endswith("samples") else str(value)


def departures(points: Sequence[Point]) -> list[str]:
    """Fields that are not as in the paper in any of the runs, e.g. ``width = 0.25``; what the sweep varies is left out.

    The paper's setting is the default of every field (appendix E), at any data set, encoder and norm.
    """
    varied = {key for point in points for key in point.values}
    ours = [flat_fields(point.spec.model_dump(mode="json")) for point in points]
    found: dict[str, dict[str, None]] = {}
    for point, fields in zip(points, ours, strict=True):
        encoder = {"name": point.spec.encoder.name, "norm": point.spec.encoder.norm}
        papers = RunSpec.model_validate({"data": {"name": "cifar10"}, "encoder": encoder}).model_dump(mode="json")
        plain = flat_fields(papers)
        for key, value in fields.items():
            if value != plain.get(key) and key not in varied and not key.startswith(_UNSHOWN):
                found.setdefault(key, {})
    for key, values in found.items():
        values |= {value_text(key, fields[key]): None for fields in ours if key in fields}
    names = axis_names(found)
    return [f"{names[key]} = {' or '.join(values)}" for key, values in found.items()]


def flat_fields(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted field -> value."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= flat_fields(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat


def _field(spec: RunSpec, key: str) -> Any:
    return flat_fields(spec.model_dump(mode="json")).get(key)
