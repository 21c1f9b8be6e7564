"""SweepSpec: a grid of runs, and how it expands to validated RunSpecs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from rt_scale.spec.axes import axis_names, expand_axis
from rt_scale.spec.document import apply_overrides, build, problem_lines, read_document, set_dotted
from rt_scale.spec.errors import InputError
from rt_scale.spec.explore import ExploreSpec, check_explore, check_grid
from rt_scale.spec.fields import check_field
from rt_scale.spec.part import Part
from rt_scale.spec.run import RunSpec
from rt_scale.spec.same import resolve_same


class LaunchSpec(Part):
    """Where runs are executed; never part of a spec or its hash."""

    cpus: int = Field(1, ge=1)
    """CPU cores a worker, which are also the threads it computes with."""
    gpus: float = Field(0.0, ge=0)
    """GPUs a worker; a fraction shares one GPU between runs of one worker."""
    workers: int = Field(1, ge=1)
    """Processes that distil one run together through Ray Train, each a share of every batch of train.batch_size."""
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
    explore: ExploreSpec | None = None
    """Runs ended early, or points sampled in place of a grid; null: every run of the grid, to its end."""
    launch: LaunchSpec = LaunchSpec()
    """Where runs are executed."""

    @field_validator("seeds")
    @classmethod
    def _some_seeds(cls, seeds: int | list[int]) -> int | list[int]:
        values = list(range(seeds)) if isinstance(seeds, int) else seeds
        if not values or min(values) < 0 or len(set(values)) != len(values):
            raise ValueError("seeds must be a number of at least 1 or a list of different numbers >= 0")
        return seeds

    @model_validator(mode="after")
    def _grid_or_search(self) -> SweepSpec:
        if self.explore is not None:
            check_grid(self.explore, [*self.axes, *(key for group in self.zip for key in group)], self.seed_values)
        return self

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


def _combinations(sweep: SweepSpec) -> Iterator[dict[str, Any]]:
    groups: list[list[dict[str, Any]]] = []
    taken: set[str] = set()
    for fields in [*({key: axis} for key, axis in sweep.axes.items()), *sweep.zip]:
        columns = {}
        for key, axis in fields.items():
            check_field("field of an axis", key)
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

    Seeds vary slowest, so that the first results cover the whole grid. Of a search there are none before it samples
    them (``points_at`` makes runs of those); its space is validated here all the same.

    Raises:
        InputError: listing every point of the grid that is not valid, before anything starts.
    """
    points = corner_points(sweep)
    return [] if sweep.explore is not None and sweep.explore.search is not None else points


def corner_points(sweep: SweepSpec) -> list[Point]:
    """What must be valid before anything starts: the runs of the grid, or those at the corners of a search's space.

    Raises:
        InputError: listing every point that is not valid.
    """
    explore = sweep.explore
    if explore is None:
        return points_at(sweep, _combinations(sweep))
    corners = {key: domain.corners for key, domain in explore.domains.items()}
    points = points_at(sweep, _combinations(sweep.model_copy(update={"axes": corners}) if corners else sweep))
    check_explore(explore, [point.spec for point in points], sweep.launch.workers)
    return points


def points_at(sweep: SweepSpec, combinations: Iterable[Mapping[str, Any]]) -> list[Point]:
    """The runs of the sweep's base at given values, with every seed.

    Args:
        sweep: its ``base``, ``seeds`` and ``name`` are read.
        combinations: dotted field -> value, of one point each.

    Raises:
        InputError: listing every point that is not valid.
    """
    points: dict[str, Point] = {}
    problems: dict[str, None] = {}
    rows = list(combinations)
    for seed in sweep.seed_values:
        for values in rows:
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
    explore = document.get("explore")
    searched = explore.get("space") if isinstance(explore, Mapping) else None
    for override in overrides:
        key = override.partition("=")[0]
        if key in zipped:
            raise InputError(f"'--set {override}': {key} is zipped with other fields; edit the sweep file instead.")
        if isinstance(searched, Mapping) and key in searched:
            raise InputError(f"'--set {override}': {key} is searched in explore.space; edit the sweep file instead.")
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
