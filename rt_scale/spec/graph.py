"""Runs that start from other runs: how people say which, and what there is to compute, in an order that works."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rt_scale.spec.errors import InputError, cut, shown
from rt_scale.spec.run import RunSpec, SeedSpec


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


ROLES = ("teacher", "student")


def resolve_same(document: Mapping[str, Any], seed: int | None = None) -> dict[str, Any]:
    """A copy of a spec's document in which every ``start_from.run`` is written out.

    ``same`` is this document without any ``start_from``; ``{same_but: {...}}`` is that with those fields changed.
    A run that is written out already stays as it is, but for the seeds that it leaves open.

    Args:
        document: a spec as read from a file.
        seed: for every named seed that a run leaves open; None leaves them to their defaults.

    Raises:
        InputError: where a ``run`` is none of the three, or ``same_but`` is no mapping or stands beside other fields.
    """
    resolved = dict(document) if seed is None else {**document, "seeds": _seeds(document.get("seeds"), seed)}
    for role in ROLES:
        part = resolved.get(role)
        start = part.get("start_from") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and isinstance(start, Mapping) and "run" in start:
            origin = {key: _without_start(value) if key in ROLES else value for key, value in resolved.items()}
            run = _written_out(origin, start["run"], f"{role}.start_from.run", seed)
            resolved[role] = {**part, "start_from": {**start, "run": run}}
    return resolved


def _written_out(origin: Mapping[str, Any], run: Any, path: str, seed: int | None) -> Any:
    if run == "same":
        return dict(origin)
    if isinstance(run, Mapping) and "same_but" not in run:
        return resolve_same(run, seed)
    if not isinstance(run, Mapping) or len(run) > 1 or not isinstance(run["same_but"], Mapping):
        raise InputError(
            f"{path} must be 'same', {{same_but: {{field: value}}}} with nothing beside it, or a whole run; "
            f"given: {cut(run) if isinstance(run, str) else shown(run)}."
        )
    return resolve_same(merged(origin, run["same_but"]), seed)


def merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``document`` with the fields of ``changes`` put in, part by part."""
    result = dict(document)
    for key, value in changes.items():
        before = result.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def _seeds(given: Any, seed: int) -> Any:
    if given is not None and not isinstance(given, Mapping):
        return given  # wrong, which validation says better
    return {**dict.fromkeys(SeedSpec.model_fields, seed), **(given or {})}


def _without_start(part: Any) -> Any:
    return {key: value for key, value in part.items() if key != "start_from"} if isinstance(part, Mapping) else part
