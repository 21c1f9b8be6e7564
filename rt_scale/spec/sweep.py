"""SweepSpec: a grid of runs, and how it expands to validated RunSpecs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from rt_scale.spec.axes import axis_names, expand_axis
from rt_scale.spec.document import apply_overrides, build, problem_lines, read_document, set_dotted
from rt_scale.spec.errors import InputError, unknown_name
from rt_scale.spec.part import Part
from rt_scale.spec.run import RunSpec
from rt_scale.spec.same import resolve_same


class LaunchSpec(Part):
    """Where runs are executed; never part of a spec or its hash."""

    cpus: int = Field(1, ge=1)
    """CPU cores a worker, which are also the threads it computes with."""
    gpus: float = Field(0.0, ge=0)
    """GPUs a worker; a fraction shares one GPU between runs of one worker."""
    accelerator: str | None = None
    """Type of those GPUs by Ray's name for it, e.g. H100; None: any."""
    workers: int = Field(1, ge=1)
    """Processes that distil one run together through Ray Train, each a share of every batch of train.batch_size."""
    retries: int = Field(3, ge=0)
    """How often a run whose process died without a new checkpoint is started again within a sweep."""
    loader: Literal["auto", "resident", "ffcv", "map"] = "auto"
    """What reads training images: resident (in memory), ffcv (streamed), map (from the file as needed), or auto."""


class SweepSpec(Part):
    """A sweep file: a base spec, the axes that vary, and where to run."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Name of the sweep and of its folder in the store."""
    base: dict[str, Any]
    """Fields of the RunSpec that all runs share."""
    axes: dict[str, list[Any] | dict[str, list[Any]]] = Field(default={})
    """Dotted field -> list of values, or {pow2: [from, to]}, {linspace: [from, to, n]},
    {logspace: [from exponent, to exponent, n]}; the grid is their product."""
    zip: list[dict[str, list[Any] | dict[str, list[Any]]]] = Field(default=[])
    """Groups of fields that vary together; each group is one more axis of the grid."""
    seeds: int | list[int] = 1
    """Number of seeds (0, 1, ...), or a list; each sets every named seed that base and axes leave open."""
    launch: LaunchSpec = LaunchSpec()
    """Where runs are executed."""

    @field_validator("seeds")
    @classmethod
    def _some_seeds(cls, seeds: int | list[int]) -> int | list[int]:
        values = list(range(seeds)) if isinstance(seeds, int) else seeds
        if not values or min(values) < 0 or len(set(values)) != len(values):
            raise ValueError("seeds must be a number of at least 1 or a list of different numbers >= 0")
        return seeds

    @property
    def seed_values(self) -> list[int]:
        """The seeds, one repetition of the grid each."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)


@dataclass(frozen=True)
class Point:
    """One run of a sweep: what varies there, and the spec.

    Attributes:
        values: dotted field -> value, for the axes alone, in the file's order.
        seed: the repetition that the run belongs to.
        spec: the run.
    """

    values: Mapping[str, Any]
    seed: int
    spec: RunSpec

    @property
    def configuration(self) -> str:
        """The axes' values as text, e.g. ``alpha=0.5,out_dim=1024``; equal for all seeds."""
        names = axis_names(self.values)
        return ",".join(f"{names[key]}={_text(value)}" for key, value in self.values.items()) or "base"

    @property
    def label(self) -> str:
        """The configuration and the seed, e.g. ``alpha=0.5,out_dim=1024,seed=3``."""
        return f"{self.configuration},seed={self.seed}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("/", "_").replace(" ", "")


def _check_field(key: str) -> None:
    """Refuse an axis that names no field of RunSpec, or of the run that it starts from."""
    fields = _dotted_fields(RunSpec)
    start, inside, rest = key.partition(".start_from.")
    if inside and f"{start}.start_from" in fields:
        fields += [f"{start}.start_from.{name}" for name in ("run", "take", "part")]
        for within in ("run.same_but.", "run."):
            if rest.startswith(within):
                _check_field(rest.removeprefix(within))
                return
    if key not in fields:
        raise unknown_name("field of an axis", key, fields)


def _dotted_fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += _dotted_fields(inner, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def _combinations(sweep: SweepSpec) -> Iterator[dict[str, Any]]:
    groups: list[list[dict[str, Any]]] = []
    taken: set[str] = set()
    for fields in [*({key: axis} for key, axis in sweep.axes.items()), *sweep.zip]:
        columns = {}
        for key, axis in fields.items():
            _check_field(key)
            if key in taken:
                raise InputError(f"The field {key} is on two axes; keep one of them.")
            taken.add(key)
            columns[key] = expand_axis(key, axis)
        lengths = {key: len(values) for key, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"Zipped fields need equally many values; given: {lengths}.")
        if columns:
            rows = zip(*columns.values(), strict=True)
            groups.append([dict(zip(columns, row, strict=True)) for row in rows])
    for parts in itertools.product(*groups):
        yield {key: value for part in parts for key, value in part.items()}


def expand(sweep: SweepSpec) -> list[Point]:
    """Every run of the sweep, validated; equal specs appear once.

    Seeds vary slowest, so that the first results cover the whole grid.

    Raises:
        InputError: listing every point of the grid that is not valid, before anything starts.
    """
    points: dict[str, Point] = {}
    problems: dict[str, None] = {}
    combinations = list(_combinations(sweep))
    for seed in sweep.seed_values:
        for values in combinations:
            document: dict[str, Any] = sweep.base
            for key, value in values.items():
                document = set_dotted(document, key, value)
            try:
                spec = RunSpec.model_validate(resolve_same(document, seed))
            except ValidationError as error:
                problems |= dict.fromkeys(problem_lines(RunSpec, error))
                continue
            except InputError as error:
                problems[str(error)] = None
                continue
            points.setdefault(spec.hash, Point(values, seed, spec))
    if problems:
        raise InputError(f"Sweep '{sweep.name}' is not valid, nothing was started: {' '.join(problems)}")
    return list(points.values())


def load_sweep(path: Path, overrides: list[str] | None = None) -> tuple[SweepSpec, list[Point]]:
    """The sweep in the file ``path`` and its runs.

    Args:
        path: a sweep file.
        overrides: ``key=value`` assignments to fields of ``base``; on a field that is an axis, one
            value replaces the axis and a list replaces its values.

    Raises:
        InputError: where the file, an axis or any point of the grid is not valid.
    """
    document = read_document(path)
    if "base" not in document and "data" in document:
        raise InputError(f"{path} holds a single spec, no sweep; run it with: rt-scale run {path}")
    if overrides and isinstance(document.get("base"), dict):
        document = _override(document, overrides)
    sweep = build(SweepSpec, document, str(path))
    return sweep, expand(sweep)


def as_run(path: Path, overrides: list[str]) -> str:
    """The text of the sweep file, under a comment with the assignments that it was run with."""
    comment = "".join(f"# run with --set {override}\n" for override in overrides)
    return comment + path.read_text(encoding="utf-8")


def _override(document: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """``--set`` on a sweep: fields of the base; a field on an axis is pinned, or given another list."""
    base, axes = document["base"], dict(document.get("axes") or {})
    zipped = {key for group in document.get("zip") or [] if isinstance(group, Mapping) for key in group}
    for override in overrides:
        key = override.partition("=")[0]
        if key in zipped:
            raise InputError(f"'--set {override}': {key} is zipped with other fields; edit the sweep file instead.")
        base = apply_overrides(base, [override])
        if key in axes:
            value: Any = base
            for part in key.split("."):
                value = value[part]
            if isinstance(value, list):
                axes[key] = value
            else:
                del axes[key]
    return {**document, "base": base, "axes": axes}


def load_run(path: Path, overrides: list[str] | None = None) -> RunSpec:
    """The single spec in the file ``path``, with ``key=value`` assignments applied.

    Raises:
        InputError: where the file or a field is not valid, or the file is a sweep.
    """
    document = read_document(path)
    if "base" in document:
        raise InputError(f"{path} is a sweep file; run all of it with: rt-scale sweep {path}")
    return build(RunSpec, resolve_same(apply_overrides(document, overrides or [])), str(path))
