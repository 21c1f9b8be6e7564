"""SweepSpec: a sweep file, and how to load sweeps and single specs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rt_scale.plugins import Names, Plugin, is_reference
from rt_scale.spec.document import apply_overrides, build, build_run, own_run, read_run
from rt_scale.spec.errors import InputError, shown
from rt_scale.spec.explore import ExploreSpec, check_grid
from rt_scale.spec.grid import GRID_LIMIT, Point, expand, refuse_large
from rt_scale.spec.kinds import DEFAULT, KINDS, model_of
from rt_scale.spec.part import MOST, Document, Name, Part, whole
from rt_scale.spec.run import RunSpec
from rt_scale.spec.yaml_files import parse_document, read_document, read_text

Experiment = Literal[
    "fig1", "fig3", "fig4_epochs", "fig4_steps", "tab2", "tab5", "fig10", "fig11", "fig12", "fig18", "ema", "fig5",
    "fig8", "fig9", "fig14", "teachers",
]  # fmt: skip
"""The paper's experiments whose numbers and claims a report can compare."""


class LaunchSpec(Part):
    """Where and how runs are executed; not part of a spec or its hash."""

    cpus: int = Field(1, ge=1, le=MOST)
    """CPU cores of a worker, and its number of threads."""
    gpus: float = Field(0.0, ge=0, le=MOST)
    """GPUs of a worker; a fraction shares one GPU between runs of one worker."""
    memory: float | None = Field(None, gt=0, le=MOST)
    """GiB of main memory of a worker, reserved where runs are placed and not enforced; null: none is reserved."""
    accelerator: str | None = None
    """Type of the GPUs by Ray's name, e.g. H100; null: any."""
    workers: int = Field(1, ge=1, le=MOST)
    """Processes that train one run together through Ray Train; each takes a share of every batch."""
    retries: int = Field(3, ge=0, le=MOST)
    """How often a sweep restarts a run whose process died without a new checkpoint."""
    loader: Literal["auto", "resident", "ffcv", "map"] = "auto"
    """Loader of training images: resident (in memory), ffcv (streamed), map (memory-mapped file) or auto."""
    accelerate: Literal["auto", "none", "compile", "graphs"] = "auto"
    """Acceleration of the student's pass over whole batches, for 1 worker: none, compile (torch.compile, which takes
    half a minute per shape and process), graphs (CUDA graphs) or auto (graphs on a GPU, none on a CPU)."""
    pack: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST)] = 1
    """Largest number of runs of one shape that train as one batched network in one process, for 1 worker; auto: the
    fastest number (1 or more), measured at the start."""

    @model_validator(mode="before")
    @classmethod
    def _no_compile(cls, given: object) -> object:
        if isinstance(given, Mapping) and "compile" in given:
            raise ValueError("compile was removed; write accelerate: compile for true, or accelerate: none for false")
        return given

    @field_validator("pack", mode="before")
    @classmethod
    def _auto_or_number(cls, value: object) -> object:
        value = whole(value)
        if value == "auto" or (type(value) is int and 1 <= value <= MOST):
            return value
        raise ValueError(f"{shown(value)} was given; allowed: auto, or a number of runs from 1 on")

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus % 1 and self.workers > 1:
            raise ValueError(
                f"gpus is {self.gpus:g} with {self.workers} workers: two workers of one run would share a GPU, which "
                "NCCL rejects; use whole GPUs per worker, or one worker"
            )
        if self.gpus % 1 and self.gpus > 1:
            raise ValueError(f"gpus is {self.gpus:g}: above 1, it must be a whole number; or write a share below 1")
        return self

    @model_validator(mode="after")
    def _one_worker_alone(self) -> Self:
        faster = self.accelerate in ("compile", "graphs")
        if faster and self.workers > 1:
            raise ValueError(f"accelerate {self.accelerate} is for runs of one worker")
        if self.pack != 1 and self.workers > 1:
            raise ValueError(f"pack is for runs of 1 worker, not of {self.workers}; leave one of them at 1")
        if self.pack != 1 and faster:
            raise ValueError(f"accelerate {self.accelerate} is for runs that train alone; leave it out, or pack at 1")
        return self


class SweepSpec(Part):
    """A sweep file: a base spec, the axes that vary, and where to run; YAML 1.2 with merge keys (<<: *base)."""

    name: Name
    """Name of the sweep and of its folder in the store."""
    experiment: Experiment | None = None
    """The paper's experiment that the sweep repeats; its report shows the paper's numbers and claims; null: none."""
    base: dict[str, Any]
    """Fields of the RunSpec that all runs share."""
    axes: dict[str, list[Any] | dict[str, list[Any]]] = Field(default={})
    """Dotted field -> list of values, or {pow2: [from, to]}, {linspace: [from, to, n]},
    {logspace: [from exponent, to exponent, n]}; the grid is their product."""
    zip: list[dict[str, list[Any] | dict[str, list[Any]]]] = Field(default=[])
    """Groups of fields that vary together; each group is one more axis of the grid."""
    seeds: int | list[int] = 1
    """Number of seeds (0, 1, ...), or a list; each sets every named seed that base and axes do not."""
    explore: ExploreSpec | None = None
    """Early stopping, or a search in place of the grid; null: every run of the grid, to its end."""
    launch: LaunchSpec = LaunchSpec()
    """Where runs are executed."""
    modules: tuple[str, ...] = Field((), alias="import", strict=False)
    """Modules whose public classes and functions are names of plugins in this file, e.g. [my_package.nets]."""
    plugins: dict[str, Annotated[tuple[str, str], Field(strict=False)]] = Field(default={})
    """What names of plugins stood for when the sweep was run; rt-scale records it."""

    @functools.cached_property
    def names(self) -> Names:
        """What names of plugins in this file stand for."""
        return Names(self.modules, {name: Plugin(*found) for name, found in self.plugins.items()})

    @field_validator("modules", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        return [given] if isinstance(given, str) else given

    @field_validator("seeds", mode="before")
    @classmethod
    def _some_seeds(cls, given: object) -> object:
        seeds = [whole(seed) for seed in given] if isinstance(given, list) else whole(given)
        listed = seeds if isinstance(seeds, list) else [seeds]
        least, most = (0, math.inf) if isinstance(seeds, list) else (1, MOST)
        different = all(type(seed) is int and least <= seed <= most for seed in listed) and len(set(listed))
        if not different or different < len(listed):
            raise ValueError(
                f"seeds must be a number of at least 1 and at most {MOST:,}, or a list of different whole "
                f"numbers >= 0, but {shown(given)} was given"
            )
        return seeds

    @model_validator(mode="after")
    def _grid_or_search(self) -> SweepSpec:
        if self.explore is not None:
            check_grid(self.explore, [*self.axes, *(key for group in self.zip for key in group)], self.seed_values)
            if self.launch.pack != 1:
                raise ValueError(
                    "runs of an explore section end or are sampled one by one, so they cannot be packed; leave "
                    "launch.pack at 1"
                )
            if self.explore.stop is not None and self.launch.workers > 1:
                raise ValueError(
                    f"explore.stop ends runs of one worker, but launch.workers is {self.launch.workers}; set it to 1, "
                    "or leave stop out"
                )
        return self

    @functools.cached_property
    def kinds(self) -> list[str]:
        """The kinds of runs that base, axes and space name; a user's by their references."""
        given: list[object] = [self.base.get("kind", DEFAULT)]
        for fields in [self.axes, *self.zip, self.explore.space if self.explore is not None else {}]:
            values = fields.get("kind", ())
            given += values if isinstance(values, list) else []
        found = dict.fromkeys(kind for kind in given if isinstance(kind, str))
        looked_for = [kind for kind in found if kind not in KINDS and not is_reference(kind)]
        own = {kind: self.names.find("experiment", kind) for kind in looked_for}
        return [plugin.reference if (plugin := own.get(kind)) else kind for kind in found]

    @property
    def models(self) -> list[type[RunSpec]]:
        """The specs of its kinds; of all kinds if none of them is known."""
        return [model for kind in self.kinds if (model := model_of(kind)) is not None] or [
            kind.spec for kind in KINDS.values()
        ]

    @property
    def seed_values(self) -> Sequence[int]:
        """The seeds; each repeats the grid once."""
        return range(self.seeds) if isinstance(self.seeds, int) else self.seeds


def load_sweep(path: Path, overrides: Sequence[str] = (), limit: int = GRID_LIMIT) -> tuple[SweepSpec, list[Point]]:
    """The sweep in the file ``path`` (see :func:`parse_sweep`) and its at most ``limit`` runs; raises InputError."""
    sweep = parse_sweep(read_text(path), str(path), overrides)
    refuse_large(sweep, limit)
    return sweep, expand(sweep)


def parse_sweep(text: str, source: str, overrides: Sequence[str] = ()) -> SweepSpec:
    """The sweep in the text of a sweep file, whose points are not checked; errors call it ``source``.

    ``overrides`` are ``key=value`` assignments to fields of ``base``. For an axis, one value replaces the axis and a
    list replaces its values; ``seeds=2`` sets the sweep's seeds, and ``name=NAME`` its name and folder in the store.

    Raises:
        InputError: the text or an assignment is not valid.
    """
    document = parse_document(text, source)
    if _is_single(document):
        raise InputError(f"{source} is a single spec, not a sweep; run it with: rt-scale run {source}")
    return _build_sweep(document, source, overrides)


def parse_either(text: str, source: str, overrides: Sequence[str] = ()) -> SweepSpec | RunSpec:
    """The sweep or the single spec in the text of a file; otherwise as :func:`parse_sweep`."""
    document = parse_document(text, source)
    if _is_single(document):
        return run_of(document, source, overrides)
    return _build_sweep(document, source, overrides)


def _is_single(document: Document) -> bool:
    return "base" not in document and ("data" in document or "kind" in document)


def _build_sweep(document: Document, source: str, overrides: Sequence[str]) -> SweepSpec:
    if overrides and isinstance(document.get("base"), dict):
        document = _override(document, overrides)
    return build(SweepSpec, document, source)


def _override(document: Document, overrides: Sequence[str]) -> Document:
    """The document with ``--set`` applied to its base; a value pins an axis and a list replaces its values."""
    base, axes, groups = document["base"], document.get("axes"), document.get("zip")
    axes = dict(axes) if isinstance(axes, Mapping) else axes  # validation reports a wrong type more clearly
    zipped = (
        {key for group in groups if isinstance(group, Mapping) for key in group} if isinstance(groups, list) else ()
    )
    explore = document.get("explore")
    searched = explore.get("space") if isinstance(explore, Mapping) else None
    for override in overrides:
        key = override.partition("=")[0]
        if key in zipped:
            raise InputError(f"'--set {override}': {key} is zipped with other fields; edit the sweep file instead.")
        if isinstance(searched, Mapping) and key in searched:
            raise InputError(f"'--set {override}': {key} is searched in explore.space; edit the sweep file instead.")
        if key in ("import", "plugins"):
            given = apply_overrides({}, [override])[key]
            both = key == "import" and isinstance(given, list) and isinstance(document.get(key, []), list)
            document = {**document, key: [*document.get(key, []), *given] if both else given}
            continue
        if key == "name":
            document = {**document, "name": apply_overrides({}, [override])["name"]}
            continue
        if key == "seeds" and not isinstance(seeds := apply_overrides({}, [override])["seeds"], Mapping):
            document = {**document, "seeds": seeds}  # a mapping would set the named seeds of base
            continue
        base = apply_overrides(base, [override])
        if isinstance(axes, dict) and key in axes:
            value: Any = base
            for part in key.split("."):
                value = value[part]
            if isinstance(value, list):
                axes[key] = value
            else:
                del axes[key]
    return {**document, "base": base} | ({"axes": axes} if "axes" in document else {})


def load_run(path: Path, overrides: list[str] | None = None) -> RunSpec:
    """The single spec in the file ``path``, with ``key=value`` assignments applied; raises InputError for a sweep."""
    document = read_document(path)
    if "base" in document:
        raise InputError(f"{path} is a sweep file; run all of it with: rt-scale sweep {path}")
    return run_of(document, str(path), overrides or [], execute=True)


def run_of(document: Mapping[str, object], source: str, overrides: Sequence[str], *, execute: bool = False) -> RunSpec:
    """The single spec in a document, with assignments applied and plugins found; InputError, which names ``source``.

    ``execute``: whether it is to be executed, so that a user's kind of run is imported.
    """
    changed = apply_overrides(document, overrides)
    modules = changed.pop("import", [])
    modules = [modules] if isinstance(modules, str) else modules
    if not isinstance(modules, list) or not all(isinstance(each, str) for each in modules):
        raise InputError(
            f"{source}: import is a list of modules, e.g. [my_package.nets], but {shown(modules)} was given."
        )
    names = Names(modules)
    return build_run(own_run(changed, names) if execute else read_run(changed, names), source)
