"""In which fields runs differ: names for single runs, conditions on their fields, equal networks under two names."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from rt_scale.spec.document import check_field
from rt_scale.spec.encoders import parse_encoder, scaled
from rt_scale.spec.errors import InputError, cut, shown
from rt_scale.spec.grid import Point
from rt_scale.spec.kinds import KINDS, model_of
from rt_scale.spec.networks import EncoderSpec
from rt_scale.spec.run import RunSpec, without_seeds
from rt_scale.spec.yaml_files import parse_yaml

_DESCRIBING = ("data.name", "encoder.name", "student.alpha")
"""The fields that name runs which differ in none, such as a single one."""
_SIGNS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_CONDITION = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)\s*(!=|<=|>=|=|<|>)(.*)")


def spec_fields(document: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Dotted field of ``RunSpec.fields`` -> value; a run to start from is one value, without its seeds."""
    found: dict[str, object] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and not {"run", "seeds"} & value.keys():
            found |= spec_fields(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = without_seeds(value)
    return found


def telling_keys(keys: Sequence[str], rows: Sequence[Mapping[str, object]], beside: Sequence[str] = ()) -> list[str]:
    """The keys that distinguish rows which ``beside`` and the keys before them do not."""
    seen = [repr([row.get(key) for key in beside]) for row in rows]
    found = []
    for key in keys:
        more = [f"{before} {row.get(key)!r}" for before, row in zip(seen, rows, strict=True)]
        if len(set(more)) > len(set(seen)):
            seen = more
            found.append(key)
    return found


def differences(specs: Sequence[RunSpec]) -> dict[str, list[object]]:
    """The fields in which runs differ -> their values, a run each; None where a run has no such field."""
    rows = [spec_fields(spec.fields) for spec in specs]
    columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
    return {key: column for key, column in columns.items() if len(set(map(repr, column))) > 1}


def points_of(specs: Sequence[RunSpec], *, seeds_apart: bool = False) -> list[Point]:
    """Single runs as points whose axes are the fields in which they differ.

    Seeds that vary together are no axis, but with ``seeds_apart`` one of them is where nothing else differs. The order,
    which no seed sets, always is one.
    """
    rows = [spec_fields(spec.fields) for spec in specs]
    for row in rows:
        if row.get("seeds.order") is None and "seeds.data" in row:
            row["seeds.order"] = row["seeds.data"]
    keys = dict.fromkeys(key for row in rows for key in row)
    differing = list(differences(specs))
    seeds = [key for key in differing if key.startswith("seeds.") and key != "seeds.order"]
    together = all(len({row.get(key) for key in seeds}) == 1 for row in rows)
    axes = [key for key in differing if key not in seeds or not together]
    axes = axes or (seeds[:1] if seeds_apart else []) or [key for key in _DESCRIBING if key in keys]
    seed = next((key for key in (*seeds, *keys) if key.startswith("seeds.")), "")
    return [
        Point({key: row.get(key) for key in axes}, int(str(row.get(seed, 0))), spec)
        for row, spec in zip(rows, specs, strict=True)
    ]


def told_apart(points: Sequence[Point], axes: Sequence[str] | None = None) -> list[Point]:
    """The points with only those axes, of ``axes`` or of all, that tell them apart, for short labels."""
    axes = axes or list(dict.fromkeys(key for point in points for key in point.values))
    kept = telling_keys(axes, [point.values for point in points]) or axes
    return [replace(point, values={key: point.values[key] for key in kept if key in point.values}) for point in points]


_ORDER = "seeds.order"
"""The field whose null means the value of another, seeds.data."""


@dataclass(frozen=True)
class Condition:
    """A condition on a field of a spec, e.g. ``student.alpha<=0.5``."""

    key: str
    sign: str
    value: object

    def holds(self, recorded: Mapping[str, object]) -> bool:
        """Whether a run with that canonical value meets it; nothing but numbers is less or greater.

        A field of networks in a list, e.g. ends.run.student.alpha, meets it if one of them does.
        """
        values = _recorded(recorded, self.key)
        if self.key.endswith(_ORDER):
            data = _recorded(recorded, f"{self.key.removesuffix(_ORDER)}seeds.data")
            values = (seed if order is None else order for order, seed in zip(values, data, strict=True))
        return any(map(self._is_met_by, values))

    def _is_met_by(self, found: object) -> bool:
        if self.sign not in ("=", "!="):
            return _is_number(found) and _SIGNS[self.sign](found, self.value)
        return _SIGNS[self.sign]((isinstance(found, bool), found), (isinstance(self.value, bool), self.value))


def parse_condition(text: str) -> Condition:
    """The condition in a text; InputError for another form, an unknown field, or an order of what is no number."""
    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        raise InputError(f"'--where {cut(text)}' is no condition; write e.g. --where student.alpha=0.5, with one of "
                         f"{' '.join(_SIGNS)}, in quotes for < and >.")  # fmt: skip
    key, sign, given = match.groups()
    check_field("field of --where", key, [kind.spec for kind in KINDS.values()])
    value = parse_yaml(given, f"the value of '--where {cut(text)}'")
    if sign not in ("=", "!=") and not _is_number(value):
        raise InputError(f"'--where {cut(text)}': {sign} compares numbers, and {shown(value)} is none; take = or !=.")
    return Condition(key, sign, value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _recorded(run: Mapping[str, object], key: str) -> Iterator[object]:
    """The values of a dotted field in a run's canonical value, one for each network of a list, or the default that it
    leaves out."""
    found: object = run
    names = key.split(".")
    for place, name in enumerate(names):
        rest = ".".join(names[place:])
        if isinstance(found, list):
            for each in found:
                yield from _recorded(each, rest) if isinstance(each, Mapping) else ()
            return
        if place and isinstance(found, Mapping) and "kind" in found and "seeds" in found:  # a run within
            yield from _recorded(found, rest)
            return
        if not isinstance(found, Mapping) or name not in found:
            yield _default(run.get("kind"), key)
            return
        found = found[name]
    yield found


def _default(kind: object, key: str) -> object:
    """The value of a field that the canonical value of a spec of that kind leaves out; None if it has no such field."""
    model: object = model_of(kind)
    value: object = None
    for name in key.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel) and name in model.model_fields):
            return None
        field = model.model_fields[name]
        model, value = field.annotation, field.default
    return value


def equal_networks(specs: Iterable[RunSpec]) -> list[str]:
    """A sentence for each network that has several names, e.g. ``convnet_32_3`` at width 2 and ``convnet_64_3``."""
    found: dict[tuple[object, ...], dict[str, None]] = {}
    encoders = (encoder for spec in specs if isinstance(encoder := getattr(spec, "encoder", None), EncoderSpec))
    for encoder in {each.canonical_text: each for each in encoders if each.plugin is None}.values():
        known = parse_encoder(encoder.name)
        if known.channels is not None and not known.is_vit:
            network = (known.family, known.layers, scaled(known.channels, encoder.width), encoder.norm)
            words = encoder.name if encoder.width == 1 else f"{encoder.name} at width {encoder.width:g}"
            found.setdefault(network, {})[words] = None
    return [
        f"{' and '.join(names)} are one network: runs that differ in nothing else give equal numbers."
        for names in found.values() if len(names) > 1
    ]  # fmt: skip
