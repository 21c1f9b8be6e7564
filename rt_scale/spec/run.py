"""RunSpec: everything that determines a run's numbers."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from rt_scale.spec.data import GAUSSIAN, AugmentSpec, DataSpec
from rt_scale.spec.networks import EncoderSpec, ProjectorSpec, StartFrom, StudentSpec, TeacherSpec
from rt_scale.spec.part import Document, Part, changed, json_text
from rt_scale.spec.plugged import Plugged
from rt_scale.spec.training import ObjectiveSpec, ProbeSpec, TrainSpec


def stream(name: str, *keys: int) -> int:
    """The seed, in [0, 2**63), of the random stream ``name`` (e.g. ``"data.order"``), from a SHA-256 digest.

    ``keys`` are the user's seed and other indices of the draw, such as the epoch.
    """
    text = ":".join([name, *(str(int(key)) for key in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def check_run(spec: RunSpec) -> None:
    """Raise ValueError for parts that do not fit together."""
    if spec.kind == "supervise":
        _supervised(spec)
    elif spec.objective.label_noise:
        raise ValueError("objective.label_noise changes labels, which kind distill never uses: set kind: supervise")
    if spec.data.name == GAUSSIAN:
        _noise(spec)
    if GAUSSIAN in spec.probe.also:
        raise ValueError("probe.also names gaussian, whose inputs have no labels to probe with: leave it out")
    _pairing(spec)
    for role in ("teacher", "student"):
        start = getattr(spec, role).start_from
        if start is not None:
            _same_architecture(spec, f"{role}.start_from", start)


def _supervised(spec: RunSpec) -> None:
    """Equal supervised runs have equal hashes: fields that only a distillation uses keep their defaults."""
    of_distillation = {
        "objective": ("name",),
        "student": ("temperature", "center"),
        "teacher": ("update", "mode", "statistics", "temperature", "center"),
    }
    idle = [
        f"{part}.{name}"
        for part, names in of_distillation.items()
        for name in names
        if changed(getattr(spec, part), name)
    ]
    if idle:
        raise ValueError(f"kind supervise learns labels, not a teacher: leave out {', '.join(idle)}")
    if not spec.probe.own:
        raise ValueError("kind supervise measures its classifier on its own test images: leave probe.own at true")
    if spec.augment.kind == "multicrop":
        raise ValueError("kind supervise takes one view of an image: set augment.kind to crop_flip or none")


def _noise(spec: RunSpec) -> None:
    if spec.kind == "supervise":
        raise ValueError("kind supervise learns labels, and gaussian inputs have none: name another data set")
    if not spec.probe.also:
        raise ValueError("gaussian inputs have no labels to probe on: name other data sets in probe.also")
    if not spec.probe.own:
        raise ValueError("gaussian inputs are never probed themselves: leave probe.own at true")
    if spec.probe.statistics:
        raise ValueError("probe.statistics are of test images, and gaussian inputs have none: leave it false")
    if spec.augment.kind == "multicrop":
        raise ValueError(
            "multi-crop changes the colours of photographs, which gaussian inputs are not: set augment.kind "
            "to none or crop_flip"
        )


def _pairing(spec: RunSpec) -> None:
    views, pairing = spec.augment, spec.objective.pairing
    if views.kind != "multicrop":
        if pairing != "same":
            raise ValueError(
                f"objective.pairing {pairing} is between several views of an image, and there is one: set "
                "augment.kind to multicrop, or leave pairing at same"
            )
    elif pairing == "same" and views.local_views:
        raise ValueError(
            f"objective.pairing same compares only global views, so the {views.local_views} local views would not be "
            "used: set augment.local_views to 0, or pairing to opposite or all"
        )
    elif pairing != "same" and views.global_views + views.local_views == 1:
        raise ValueError(f"objective.pairing {pairing} needs a second view: raise augment.global_views or local_views")


def _same_architecture(spec: RunSpec, name: str, start: StartFrom) -> None:
    other = start.run
    if other.encoder != spec.encoder:
        raise ValueError(
            f"{name}.run has the encoder {_text(other.encoder)}, this run {_text(spec.encoder)}: weights can only "
            "be copied between equal encoders"
        )
    if start.part == "network" and other.projector != spec.projector:
        raise ValueError(
            f"{name}.run has another projector than this run, {_text(other.projector)} and not "
            f"{_text(spec.projector)}: give part: encoder to draw a new projector, or make them equal"
        )


def _text(part: Part) -> str:
    values = {name: getattr(part, name) for name in type(part).model_fields}
    return "{" + ", ".join(f"{name}: {value}" for name, value in values.items() if value is not None) + "}"


class SeedSpec(Part):
    """A seed for each named random stream; streams with equal seeds are independent."""

    teacher: int = Field(0, ge=0)
    """The teacher's initialisation."""
    student: int = Field(0, ge=0)
    """The student's independent draw, whose share is alpha."""
    data: int = Field(0, ge=0)
    """The subset and the order of the training images."""
    probe: int = Field(0, ge=0)
    """Initialisation and data order of the linear classifiers."""


class RunSpec(Part):
    """One distillation of a teacher into a student, or one supervised training, with its probes.

    Equal specs name the same run. The hash covers every field, defaults included, so a changed default names another
    run. Only a field that was added later has a neutral value, under which it is left out of the hash (see
    :func:`added`), so that old runs keep their names.
    """

    kind: Literal["distill", "supervise"] = "distill"
    """distill (the student learns the teacher's outputs) or supervise (it learns labels; out_dim is their number).

    A plain linear classifier is ``projector: {hidden: [], parts: -/lb/-/-/-/-, init: torch, out_dim: 10}``.
    """
    data: DataSpec
    """The images."""
    encoder: EncoderSpec
    """The encoder of teacher and student."""
    projector: ProjectorSpec = ProjectorSpec()
    """The projector of teacher and student."""
    teacher: TeacherSpec = Field(
        default_factory=functools.cache(lambda: TeacherSpec()), json_schema_extra={"neutral": {}}
    )
    """The teacher: its start and its updates."""
    student: StudentSpec = Field(default_factory=functools.cache(lambda: StudentSpec()))
    """The student: its start and its softmax."""
    objective: ObjectiveSpec = Field(ObjectiveSpec(), json_schema_extra={"neutral": {}})
    """What training minimises."""
    augment: AugmentSpec = Field(AugmentSpec(), json_schema_extra={"neutral": AugmentSpec().canonical()})
    """How training images are augmented; probed images never are."""
    train: TrainSpec = TrainSpec()
    """Training."""
    probe: ProbeSpec = ProbeSpec()
    """Probing."""
    seeds: SeedSpec = SeedSpec()
    """Random streams."""
    precision: Literal["float32", "tf32", "float64", "bf16"] = "float32"
    """Arithmetic of the networks in training and probing: float32, tf32 (in matrix products and convolutions, GPUs
    only), float64 or bf16 (autocast over float32 parameters). Embeddings are stored in float32."""

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        check_run(self)
        return self

    @property
    def starts(self) -> tuple[StartFrom, ...]:
        """The ``start_from`` of teacher and student, if set."""
        return tuple(start for start in (self.teacher.start_from, self.student.start_from) if start is not None)

    @property
    def plugins(self) -> dict[str, str]:
        """The plugins of this run, not of those that it starts from: reference -> SHA-256 of its source."""
        parts: tuple[Plugged, ...] = (self.data, self.encoder, self.objective, *self.probe.extra)
        return {part.plugin: part.source for part in parts if part.plugin is not None and part.source is not None}

    @functools.cached_property
    def hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical value."""
        return _digest(self.canonical_text)

    @functools.cached_property
    def configuration_hash(self) -> str:
        """The hash without any seeds, also those of runs to start from: equal for all repetitions."""
        return _digest(json_text(_without_seeds(self.canonical())))

    @property
    def name(self) -> str:
        """The name of the run and of its directory, e.g. ``distill-0123456789abcdef``."""
        return f"{self.kind}-{self.hash}"


def recorded_name(canonical: Document) -> str:
    """The name of the run with that canonical value, also if another version of rt-scale recorded it."""
    return f"{canonical['kind']}-{_digest(json_text(canonical))}"


def _without_seeds(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_seeds(inner) for key, inner in value.items() if key != "seeds"}
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def all_runs(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """``specs`` and all runs that they start from, each once, in the given order but each after the runs it needs."""
    found: dict[str, RunSpec] = {}
    for spec in specs:
        _add(spec, found)
    return list(found.values())


def _add(spec: RunSpec, found: dict[str, RunSpec]) -> None:
    # Check first: with two starts from one run per level, the recursion would otherwise double at every level.
    if spec.name in found:
        return
    for start in spec.starts:
        _add(start.run, found)
    found[spec.name] = spec


for _part in (StartFrom, TeacherSpec, StudentSpec, RunSpec):
    _part.model_rebuild(_types_namespace={"RunSpec": RunSpec})
