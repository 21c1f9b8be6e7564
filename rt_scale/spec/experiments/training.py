"""The specs of the kinds that train a network: distill and supervise."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from rt_scale.spec.data import GAUSSIAN, AugmentSpec, DataSpec
from rt_scale.spec.encoders import parse_encoder
from rt_scale.spec.experiments.pruning import Pruned, PruneSpec, check_prune
from rt_scale.spec.metrics import training_metrics
from rt_scale.spec.networks import EncoderSpec, ProjectorSpec, StartFrom, StudentSpec, Taken, TeacherSpec
from rt_scale.spec.part import Part, Plugged, added, changed
from rt_scale.spec.run import RunSpec, When
from rt_scale.spec.training import ObjectiveSpec, ProbeSpec, TrainSpec

P = TypeVar("P", bound=Part)


class TrainingSpec(RunSpec):
    """One training of a student, with its probes.

    A plain linear classifier is ``projector: {hidden: [], parts: -/lb/-/-/-/-, init: torch, out_dim: 10}``.
    """

    learns_labels: ClassVar[bool]
    """Whether it trains a classifier on labels, without a teacher."""
    free: ClassVar[Mapping[str, tuple[tuple[str, ...], ...]]] = {
        "seeds": (),
        "student": (("alpha",), ("epsilon",), ("start_from",), ("temperature",)),
        "teacher": (("start_from",), ("temperature",), ("momentum",)),
        "train": (("epochs",), ("freeze_last",), ("stop",), ("optimizer", "lr"), ("optimizer", "weight_decay")),
        "probe": (("every",), ("lr",), ("l2",)),
        "objective": (("label_noise",),),
        "data": (("sigma",),),
        "projector": (("init",),),
        "prune": (),
    }

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
    precision: Literal["float32", "tf32", "float64", "bf16"] = "float32"
    """Arithmetic of the networks in training and probing: float32, tf32 (in matrix products and convolutions, GPUs
    only), float64 or bf16 (autocast over float32 parameters). Embeddings are stored in float32."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSpec:
        self._check_kind()
        if self.data.name == GAUSSIAN:
            _noise(self)
        if GAUSSIAN in self.probe.also:
            raise ValueError("probe.also names gaussian, whose inputs have no labels to probe with: leave it out")
        if self.probe.layers is not None and not self._depths["student"]:
            raise ValueError(
                f"probe.layers measures the layers of rt-scale's encoders, and '{self.encoder.name}' has none of them: "
                "leave it out"
            )
        _pairing(self)
        if self.teacher.width is not None:
            _two_widths(self)
        if self.teacher.count is not None:
            _several_teachers(self)
        for role in ("teacher", "student"):
            start = getattr(self, role).start_from
            if start is not None:
                _same_architecture(self, f"{role}.start_from", start)
                if start.take == "state":
                    _goes_on(self, role, start)
        return self

    def _check_kind(self) -> None:
        """Raise ValueError for fields that this kind does not use."""

    def encoder_of(self, role: str) -> EncoderSpec:
        """The encoder of ``teacher``, or of ``student`` and ``init``, which may be of another width."""
        width = self.teacher.width if role == "teacher" else None
        return self.encoder if width is None else _changed(self.encoder, width=width)

    @property
    def starts(self) -> tuple[StartFrom, ...]:
        """The ``start_from`` of teacher and student, if set."""
        return tuple(start for start in (self.teacher.start_from, self.student.start_from) if start is not None)

    @property
    def classifies(self) -> bool:
        """Whether the student's outputs are classes of its images: it learns labels, or the outputs of a student that
        learned labels of the same set."""
        start = self.teacher.start_from
        if self.learns_labels or start is None or (start.take, start.part) != ("student", "network"):
            return self.learns_labels
        return start.run.classifies and start.run.data.name == self.data.name

    @property
    def probes_its_teacher_alone(self) -> bool:
        """Whether nothing is trained and the student is its teacher, which is all that there is to probe."""
        unchanged = self.student.alpha == 0 and self.pruned is None
        return self.train.stop == "0ep" and unchanged and not self.teacher.moves

    @property
    def pruned(self) -> Pruned | None:
        """How its student is pruned, if it is."""
        return None

    @property
    def goes_on_from(self) -> TrainingSpec | None:
        """The run from whose state at the end it goes on, if any."""
        start = self.student.start_from
        if start is not None and start.take == "state":
            return start.run
        return None if self.pruned is None else self.pruned.rewound

    def first_step(self, steps_per_epoch: int) -> int:
        """The optimiser steps that were done before its start."""
        before = self.goes_on_from
        return 0 if before is None else before.train.end(steps_per_epoch)

    @functools.cached_property
    def contained(self) -> tuple[RunSpec, ...]:
        """The runs that teacher and student start from, finished or at their start."""
        return tuple({start.run.name: start.run for start in self.starts}.values())

    @functools.cached_property
    def dependencies(self) -> tuple[RunSpec, ...]:
        """The runs that must be finished before teacher and student can start."""
        needed = [run for start in self.starts for run in start.needed]
        if self.pruned is not None:
            needed += [run for run in (self.pruned.rewound, self.pruned.before) if run is not None]
        return tuple({run.name: run for run in needed}.values())

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The sets that are trained on and probed, except drawn inputs."""
        return tuple(name for name in (self.data.name, *self.probe.also) if name != GAUSSIAN)

    @property
    def main_set(self) -> str:
        """The set that is trained on."""
        return self.data.name

    @property
    def data_words(self) -> str:
        """The main set with its size, samples and noise, and the sets that are probed."""
        fields = {"size": self.data.size, "samples": self.data.samples, "sigma": self.data.sigma}
        parts = [self.data.name, *(f"{key} {value}" for key, value in fields.items() if value is not None)]
        also = [f"probed on {', '.join(self.probe.also)}"] if self.probe.also else []
        return " ".join([*parts, *also, *(["at their own size"] if self.probe.also_size == "own" else [])])

    @property
    def precisions(self) -> tuple[str, ...]:
        """That of its networks."""
        return (self.precision,)

    @property
    def logged(self) -> Mapping[str, When]:
        """Its metrics, if its data set has labels."""
        own = self.probe.own and self.data.name != GAUSSIAN
        return training_metrics(
            self.probe,
            own=own,
            learns_labels=self.learns_labels,
            classifies=own and self.classifies,
            depths=self._depths,
            alike=self.teacher.width is None,
        )

    @property
    def _depths(self) -> dict[str, int]:
        """Layers of the encoder of each role that ``probe.layers`` measures; of a plugin and the input 0."""
        depth = 0 if self.encoder.plugin else parse_encoder(self.encoder.name).depth
        roles = ("student", "teacher", "input") if self.probe.baselines else ("student",)
        return dict.fromkeys(roles, depth)

    @property
    def plugins(self) -> dict[str, str]:
        """Those of its parts."""
        parts: tuple[Plugged, ...] = (self.data, self.encoder, self.objective, *self.probe.extra)
        return {part.plugin: part.source for part in parts if part.plugin is not None and part.source is not None}

    @property
    def readers(self) -> tuple[DataSpec, ...]:
        """The images, if a plugin gives them."""
        return (self.data,) if self.data.plugin is not None else ()

    @property
    def alone_because(self) -> str:
        """Of a plugin: what a user's encoder or objective does in a batch of networks is unknown."""
        plugin = self.encoder.plugin or self.objective.plugin
        return f"plugin {plugin} is for one network" if plugin else ""

    @property
    def probes(self) -> tuple[str, ...]:
        """Of its encoders, on its own data set first; none if the student alone is probed, which has no comparison."""
        if not self.probe.baselines:
            return ()
        own = self.probe.own and self.data.name != GAUSSIAN
        sets = ([""] if own else []) + [f"@{data}" for data in self.probe.also]
        return tuple(f"{probe}{data}" for data in sets for probe in self.probe.kinds)

    @property
    def title(self) -> str:
        """Encoder, data set, outputs, epochs, and where in them it ends."""
        encoder, epochs, wide = self.encoder, self.train.epochs, self.teacher.width
        width = "" if encoder.width == 1 else f" x {encoder.width:g}"
        norm = "" if encoder.norm == "none" else f" {encoder.norm}"
        norm += "" if wide is None else f", teacher x {wide:g}"
        norm += "" if self.teacher.count is None else f", {self.teacher.count} teachers"
        samples = "" if self.data.samples is None else f" ({self.data.samples:,})"
        length = "1 epoch" if epochs == 1 else f"{epochs} epochs"
        length += "" if self.train.stop is None else f", to {self.train.stop}"
        outputs = f"{self.projector.out_dim:,} outputs"
        return f"{encoder.name}{width}{norm}, {self.data.name}{samples}, {outputs}, {length}"


class DistillSpec(TrainingSpec):
    """The student learns the teacher's outputs."""

    learns_labels: ClassVar[bool] = False
    kind: Literal["distill"] = "distill"
    """Kind of run."""

    def _check_kind(self) -> None:
        if self.objective.label_noise:
            raise ValueError("objective.label_noise changes labels, which kind distill never uses: set kind: supervise")
        if not self.probe.kinds:
            raise ValueError(
                "nothing would be probed, and a distillation has no other measure of its student: set probe.linear to "
                "true or probe.knn to 1 or more"
            )

    @property
    def alone_because(self) -> str:
        """Not empty for a student that equals its teacher bit for bit.

        Its gradient is exactly 0 if the same kernels compute both. A batched network uses other kernels, and the
        student would learn from the rounding difference.
        """
        start = self.student
        name, share = ("alpha", start.alpha) if start.epsilon is None else ("epsilon", start.epsilon)
        return super().alone_because or (f"student.{name} is 0" if start.start_from is None and share == 0 else "")


class SuperviseSpec(TrainingSpec):
    """The student learns labels, and projector.out_dim is their number."""

    learns_labels: ClassVar[bool] = True
    kind: Literal["supervise"] = "supervise"
    """Kind of run."""
    prune: PruneSpec | None = added(None)
    """Iterative magnitude pruning; null, or its round 0: none."""

    def _check_kind(self) -> None:
        _supervised(self)
        if self.prune is not None:
            check_prune(self, self.prune)
        if self.prune is not None and self.prune.round == 0:
            self.__dict__["prune"] = None  # equal runs have equal hashes

    @functools.cached_property
    def pruned(self) -> Pruned | None:
        """How its student is pruned, and the runs that come first."""
        if (how := self.prune) is None:
            return None
        before = _changed(self, prune=_changed(how, round=how.round - 1))
        if how.rewind == "0ep":
            return Pruned(how, before, None)
        return Pruned(how, before, _changed(self, prune=None, train=_changed(self.train, stop=how.rewind)))

    @property
    def title(self) -> str:
        """As of a distillation, after the kind."""
        return f"supervise: {super().title}" + ("" if self.prune is None else ", pruned")


def _supervised(spec: SuperviseSpec) -> None:
    """Equal supervised runs have equal hashes: fields that only a distillation uses keep their defaults."""
    of_distillation = {
        "objective": ("name",),
        "student": ("temperature", "center"),
        "teacher": ("width", "count", "update", "mode", "statistics", "temperature", "center"),
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
    if spec.data.name == GAUSSIAN:
        raise ValueError("kind supervise learns labels, and gaussian inputs have none: name another data set")


def _fields(part: Part) -> dict[str, object]:
    return {name: getattr(part, name) for name in type(part).model_fields}


def _changed(part: P, **fields: object) -> P:
    """``part``, validated, with some of its fields changed."""
    return type(part).model_validate(_fields(part) | fields)


def _noise(spec: TrainingSpec) -> None:
    if not spec.probe.also:
        raise ValueError("gaussian inputs have no labels to probe on: name other data sets in probe.also")
    if not spec.probe.own:
        raise ValueError("gaussian inputs are never probed themselves: leave probe.own at true")
    if spec.probe.statistics:
        raise ValueError("probe.statistics are of test images, and gaussian inputs have none: leave it false")
    if spec.probe.layers is not None:
        raise ValueError("probe.layers measures test images, and gaussian inputs have none: leave it out")
    if spec.augment.kind == "multicrop":
        raise ValueError(
            "multi-crop changes the colours of photographs, which gaussian inputs are not: set augment.kind "
            "to none or crop_flip"
        )


def _two_widths(spec: TrainingSpec) -> None:
    """Refuse what compares or mixes the weights of student and teacher; equal widths are no difference."""
    encoder, width = spec.encoder, spec.teacher.width
    if width == encoder.width:
        spec.__dict__["teacher"] = _changed(spec.teacher, width=None)
        return
    what, start = f"teacher.width is {width:g} and encoder.width {encoder.width:g}", spec.student
    if encoder.plugin is not None:
        raise ValueError(f"teacher.width is of rt-scale's encoders: leave it out with '{encoder.name}'")
    try:
        spec.encoder_of("teacher")
    except ValidationError as error:
        raise ValueError(f"{what}: {error.errors()[0]['ctx']['error']}") from None
    refusals = {
        "no start lies between networks of two sizes: set student.alpha to 1, an independent draw": (
            start.start_from is None and (start.alpha != 1 or start.epsilon is not None)
        ),
        "such a teacher cannot follow its student: leave out teacher.update and teacher.statistics": spec.teacher.moves,
        "probe.statistics compares their weights and embeddings: leave it at false": spec.probe.statistics,
        "with encoder.init authors both have one patch embedding: leave encoder.init out": encoder.init == "authors",
    }
    for reason, applies in refusals.items():
        if applies:
            raise ValueError(f"{what}: {reason}")


def _several_teachers(spec: TrainingSpec) -> None:
    """Refuse what needs the logits of one teacher."""
    refusals = {
        "objective.name must be cross_entropy or kl, as the mean is of probabilities": (
            spec.objective.name not in ("cross_entropy", "kl")
        ),
        "probe.curvature is of the loss under one teacher: leave it out": spec.probe.curvature is not None,
        "with encoder.init authors all have one patch embedding: leave encoder.init out": (
            spec.encoder.init == "authors"
        ),
    }
    for reason, applies in refusals.items():
        if applies:
            raise ValueError(f"teacher.count is {spec.teacher.count}: {reason}")


def _pairing(spec: TrainingSpec) -> None:
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


def _same_architecture(spec: TrainingSpec, name: str, start: StartFrom) -> None:
    other, role = start.run, name.partition(".")[0]
    taken, own = other.encoder_of(start.take), spec.encoder_of(role)
    if taken != own:
        raise ValueError(
            f"{name}.run has the encoder {part_text(taken)}, this run {part_text(own)}: weights can only be copied "
            "between equal encoders"
        )
    if start.part == "network" and other.projector != spec.projector:
        raise ValueError(
            f"{name}.run has another projector than this run, {part_text(other.projector)} and not "
            f"{part_text(spec.projector)}: give part: encoder to draw a new projector, or make them equal"
        )


def _goes_on(spec: TrainingSpec, role: str, start: StartFrom) -> None:
    """Refuse a state that this run's training cannot go on from."""
    name, other = f"{role}.start_from", start.run
    if role == "teacher" or start.part != "network":
        raise ValueError(f"{name}: a state is a student's whole network: take it in student.start_from, without part")
    if other.pruned is not None:
        raise ValueError(f"{name} takes the state of a pruned run, whose mask this run has not: take student, or prune")
    equal = {
        "kind": (spec.kind, other.kind),
        "train.batch_size": (spec.train.batch_size, other.train.batch_size),
        "a teacher that moves": (spec.teacher.moves, other.teacher.moves),
    }
    optimizers = spec.train.optimizer, other.train.optimizer
    for field in ("name", "momentum", "decay_norm_and_bias"):
        equal[f"train.optimizer.{field}"] = getattr(optimizers[0], field), getattr(optimizers[1], field)
    for field, (ours, theirs) in equal.items():
        if ours != theirs:
            raise ValueError(
                f"{name} takes the state of a run that differs in {field} ({theirs}, here {ours}): training cannot go "
                "on from it. Make them equal, or take: student, which begins anew"
            )


def part_text(part: Part) -> str:
    """The fields of a part that are set, in words."""
    return "{" + ", ".join(f"{name}: {value}" for name, value in _fields(part).items() if value is not None) + "}"


def training(spec: RunSpec) -> TrainingSpec:
    """``spec``, a run that trains a network."""
    assert isinstance(spec, TrainingSpec), spec.kind
    return spec


for _part in (Taken, StartFrom, TeacherSpec, StudentSpec, TrainingSpec, DistillSpec, SuperviseSpec):
    _part.model_rebuild(_types_namespace={"TrainingSpec": TrainingSpec})
