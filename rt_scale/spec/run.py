"""RunSpec: what every run's spec has, whatever its kind; ``spec.kinds`` has the kinds."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ModelWrapValidatorHandler, ValidationError, ValidationInfo, model_validator

from rt_scale.spec.data import DataSpec
from rt_scale.spec.networks import Taken
from rt_scale.spec.part import Document, Part, added, json_text

When = Literal["probe", "epoch"]


def stream(name: str, *keys: int) -> int:
    """The seed, in [0, 2**63), of the random stream ``name`` (e.g. ``"data.order"``), from a SHA-256 digest.

    ``keys`` are the user's seed and other indices of the draw, such as the epoch.
    """
    text = ":".join([name, *(str(int(key)) for key in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class SeedSpec(Part):
    """A seed for each named random stream; streams with equal seeds are independent."""

    teacher: int = Field(0, ge=0)
    """The teacher's initialisation."""
    student: int = Field(0, ge=0)
    """The student's independent draw, whose share is alpha."""
    data: int = Field(0, ge=0)
    """The subset of the training images, labels and inputs that are drawn, and the order unless `order` is set."""
    order: int | None = added(None, ge=0)
    """Order of the training images and their augmentation, apart from the subset; null: as data. A sweep's seeds do
    not set it."""
    probe: int = Field(0, ge=0)
    """Initialisation and data order of the linear classifiers."""

    @model_validator(mode="after")
    def _one_name(self) -> SeedSpec:
        """Equal runs have equal names."""
        if self.order == self.data:
            self.__dict__["order"] = None
        return self

    @property
    def ordering(self) -> int:
        """The seed of the order of the training images and of their augmentation."""
        return self.data if self.order is None else self.order


class RunSpec(Part):
    """What determines a run's numbers; each kind of run has a subclass with its fields.

    ``RunSpec.model_validate`` makes a spec of the kind that its document names. Equal specs name the same run. The hash
    covers every field, defaults included, so a changed default names another run. Only a field that was added later has
    a neutral value, under which it is left out of the hash (see :func:`added`), so that old runs keep their names.
    """

    free: ClassVar[Mapping[str, tuple[tuple[str, ...], ...]]] = {"seeds": ()}
    """Part -> its fields that do not change what a step costs; empty: the whole part."""

    kind: str
    """Kind of run."""
    seeds: SeedSpec = SeedSpec()
    """Random streams."""

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_kind(cls, given: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if not isinstance(given, dict):
            return handler(given)
        kinds = _kinds()
        kind = given["kind"] if "kind" in given else _default_kind(cls) or kinds.DEFAULT
        model = kinds.model_of(kind)
        if model is not None and issubclass(cls, model):
            return handler(given)
        if model is not None and issubclass(model, cls):
            found: Self = model.model_validate(given, context=info.context)
            return found
        expected = " or ".join(repr(name) for name in kinds.kinds_of(cls))
        problem = {"type": "literal_error", "loc": ("kind",), "input": kind, "ctx": {"expected": expected}}
        raise ValidationError.from_exception_data(cls.__name__, [problem])  # type: ignore[list-item]

    @property
    def plugins(self) -> dict[str, str]:
        """The plugins of this run, not of those that come first: reference -> SHA-256 of its source."""
        return {}

    @property
    def readers(self) -> tuple[DataSpec, ...]:
        """Those of its data sets whose images a plugin gives, which the run itself prepares."""
        return ()

    @functools.cached_property
    def hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical value."""
        return _digest(self.canonical_text)

    @functools.cached_property
    def configuration_hash(self) -> str:
        """The hash without any seeds, also those of runs to start from: equal for all repetitions."""
        return _digest(json_text(without_seeds(self.canonical())))

    @functools.cached_property
    def name(self) -> str:
        """The name of the run and of its directory, e.g. ``distill-0123456789abcdef``."""
        return f"{folder_prefix(self.kind)}-{self.hash}"

    @functools.cached_property
    def contained(self) -> tuple[RunSpec, ...]:
        """The runs that this spec contains, not those that they contain in turn; all of their data sets are opened."""
        return tuple({run.name: run for run in _runs_in(self, needed=False)}.values())

    @functools.cached_property
    def dependencies(self) -> tuple[RunSpec, ...]:
        """The runs that must be finished first: those contained, or of one that is only drawn those that it needs."""
        return tuple({run.name: run for run in _runs_in(self, needed=True)}.values())

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Names of the prepared data sets that the run reads, the main one first."""
        return ()

    @property
    def main_set(self) -> str:
        """Name of the main data set; empty without any."""
        return next(iter(self.data_sets), "")

    @property
    def data_words(self) -> str:
        """The data that it asks for, in words; runs are only compared on equal data."""
        return ", ".join(self.data_sets)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The arithmetics that its device must have."""
        return ()

    @property
    def logged(self) -> Mapping[str, When]:
        """Metric -> when it is logged; a sweep can search for, or stop early by, these alone."""
        return {}

    @property
    def alone_because(self) -> str:
        """Why it cannot train with others as one batched network; empty if it can."""
        return "kind trains no network"

    @property
    def probes(self) -> tuple[str, ...]:
        """Keys of its probes on data sets with labels: ``linear``, or ``linear@cifar100`` on another set."""
        return ()

    @property
    def title(self) -> str:
        """What is computed, in a few words for a table."""
        return self.kind

    @property
    def large(self) -> str:
        """What makes it so large that it needs a confirmation, in words; empty if nothing does."""
        return ""

    @property
    def fields(self) -> Document:
        """Every field, also those that the hash leaves out, as plain JSON types."""
        return self.model_dump(mode="json")

    @functools.cached_property
    def shape(self) -> str:
        """Equal for runs whose steps cost the same: the canonical text without ``free``."""
        names = [name for name in type(self).model_fields if name not in self.free or self.free[name]]
        texts = ((name, getattr(self, name)) for name in names)
        kept = ((name, _without(self.free.get(name, ()), _text(value))) for name, value in texts)
        return "{" + ",".join(f'"{name}":{text}' for name, text in kept if text != "{}") + "}"


@functools.cache
def _kinds() -> ModuleType:
    """The table of kinds, whose module imports this one."""
    return importlib.import_module("rt_scale.spec.kinds")


@functools.cache
def _default_kind(model: type[RunSpec]) -> str:
    """The kind of a document without one, of that model; empty if it has none of its own."""
    kind = model.model_fields["kind"]
    return "" if kind.is_required() else str(kind.default)


class OwnSpec(RunSpec):
    """The base of the specs of a user's own kinds, which files name as ``package.module:Kind``."""

    source: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of the file that defines the kind; filled in when a file of yours is read."""

    @property
    def plugins(self) -> dict[str, str]:
        """The kind."""
        return {self.kind: self.source}

    @property
    def title(self) -> str:
        """The last name of the kind."""
        return self.kind.rpartition(":")[2]


class StoredSpec(RunSpec):
    """A recorded run of a kind that this process has not imported: nothing but its document is known."""

    document: dict[str, Any]
    """The canonical value."""

    @functools.cached_property
    def canonical_text(self) -> str:
        """The recorded document, which the hash covers."""
        return json_text(self.document)

    @functools.cached_property
    def contained(self) -> tuple[RunSpec, ...]:
        """The runs within the document."""
        return tuple(map(read_recorded, runs_within(self.document)))

    @property
    def dependencies(self) -> tuple[RunSpec, ...]:
        """The same: which of them its kind needs is unknown."""
        return self.contained

    @property
    def fields(self) -> Document:
        """The document."""
        return self.document


def read_recorded(document: Document) -> RunSpec:
    """The spec with that canonical value; of an unknown kind a StoredSpec, so that nothing is imported to read it.

    ValidationError: its kind is known, and its fields are not valid.
    """
    from rt_scale.spec.kinds import DEFAULT, model_of

    kind = document.get("kind", DEFAULT)
    if model_of(kind) is not None or not isinstance(kind, str):
        return RunSpec.model_validate(document)
    seeds = SeedSpec.model_validate(document.get("seeds", {}))
    return StoredSpec.model_construct(kind=kind, seeds=seeds, document=document)


def runs_within(document: object, top: bool = True) -> Iterator[Document]:
    """The recorded runs inside a recorded run, at any depth, but not those within them."""
    if isinstance(document, dict) and not top and isinstance(document.get("seeds"), dict) and "kind" in document:
        yield document
        return
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    for each in inner:
        yield from runs_within(each, top=False)


def _text(value: object) -> str:
    return value.canonical_text if isinstance(value, Part) else json_text(value)


@functools.lru_cache(maxsize=4096)  # parts are shared by the runs of a grid
def _without(fields: tuple[tuple[str, ...], ...], text: str) -> str:
    value: Any = without_seeds(json.loads(text))
    for *path, last in fields:
        part = value
        for each in path:
            part = part.get(each, {})
        part.pop(last, None)
    return json_text(value)


def _runs_in(value: object, *, needed: bool) -> Iterator[RunSpec]:
    """The runs that are fields, at any depth, but not those within them; ``needed``: those that must be finished."""
    inner: Iterable[object] = ()
    if needed and isinstance(value, Taken):
        inner = value.needed
    elif isinstance(value, BaseModel):
        inner = (getattr(value, name) for name in type(value).model_fields)
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    for each in inner:
        if isinstance(each, RunSpec):
            yield each
        else:
            yield from _runs_in(each, needed=needed)


def folder_prefix(kind: str) -> str:
    """The first part of the name of a run's directory: the kind, or of ``module:Kind`` its last name, in letters."""
    return re.sub("[^a-z]", "", re.split("[:.]", kind)[-1].lower())[:40] or "run"


def recorded_name(canonical: Document) -> str:
    """The name of the run with that canonical value, also if another version of rt-scale recorded it."""
    return f"{folder_prefix(canonical['kind'])}-{_digest(json_text(canonical))}"


def without_seeds(value: object) -> object:
    """A canonical value without the seeds, also those of runs in it."""
    if isinstance(value, dict):
        return {key: without_seeds(inner) for key, inner in value.items() if key != "seeds"}
    if isinstance(value, list):
        return [without_seeds(inner) for inner in value]
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def all_runs(specs: Iterable[RunSpec], *, drawn: bool = False) -> list[RunSpec]:
    """``specs`` and all runs that they depend on, each once, in the given order but each after the runs it needs.

    ``drawn``: also those that they contain and that need not be finished.
    """
    found: dict[str, RunSpec] = {}
    for spec in specs:
        _add(spec, found, drawn)
    return list(found.values())


def _add(spec: RunSpec, found: dict[str, RunSpec], drawn: bool) -> None:
    # Check first: with two starts from one run per level, the recursion would otherwise double at every level.
    if spec.name in found:
        return
    for needed in (*spec.contained, *spec.dependencies) if drawn else spec.dependencies:
        _add(needed, found, drawn)
    found[spec.name] = spec
