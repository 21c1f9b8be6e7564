"""The networks of a run: encoder and projector, and where teacher and student start."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, WithJsonSchema, model_validator

from rt_scale.plugins import is_reference
from rt_scale.spec.encoders import parse_encoder
from rt_scale.spec.errors import InputError, cut, guess
from rt_scale.spec.part import MOST, Part, Plugged, added, changed
from rt_scale.spec.schedule import Scheduled
from rt_scale.spec.schedule import parse as parse_schedule

if TYPE_CHECKING:
    from rt_scale.spec.experiments.training import TrainingSpec


class Taken(Part):
    """A network of another run, which is a spec itself and is executed first, once, unless its start is enough."""

    run: SerializeAsAny[TrainingSpec]
    """The run, as a whole spec."""
    take: Literal["student", "teacher", "init"] = "student"
    """Its network: student (trained), teacher (at the end) or init (the student at its start)."""

    @property
    def drawn(self) -> bool:
        """Whether it is as at the run's start and so follows from its spec: init, or a teacher that never moves.

        The start of a pruned run does not: it needs the rounds before.
        """
        if self.take == "init":
            return self.run.pruned is None
        return self.take == "teacher" and not self.run.teacher.moves

    @property
    def origins(self) -> Mapping[str, StartFrom]:
        """What it was drawn around or copied from: ``teacher`` or ``student`` of ``run`` -> where that starts."""
        role = "student" if self.take == "init" and self.run.student.start_from is not None else "teacher"
        start = getattr(self.run, role).start_from
        return {} if start is None else {role: start}

    @property
    def needed(self) -> tuple[TrainingSpec, ...]:
        """The runs that must be finished before it can be read: ``run``, or what its start itself needs."""
        return tuple(run for start in self.origins.values() for run in start.needed) if self.drawn else (self.run,)


class StartFrom(Taken):
    """Weights from the start or the end of another run, which is a spec itself and is executed first, once.

    A run of which only init or a teacher that never moves is taken is not executed: its weights are drawn.
    """

    run: SerializeAsAny[TrainingSpec]
    """The other run as a whole spec, or in a file `same` (this run without any start_from and prune), or `{same_but:
    {...}}` (that with these fields changed)."""
    take: Literal["student", "teacher", "init", "state"] = "student"  # type: ignore[assignment]  # one value more
    """Its network: student (trained), teacher (at the end) or init (the student at its start). A student's may be
    state: with the student also optimiser, step, centres and a moving teacher at the end of that run, whose schedules
    and order of images go on from there."""
    part: Literal["network", "encoder"] = "network"
    """network (encoder and projector) or encoder (with a newly drawn projector)."""


def _between_0_and_1(value: float | str) -> float | str:
    low, high = parse_schedule(value).bounds
    if not 0 <= low <= high <= 1:
        raise ValueError(f"must lie in [0, 1], but {value} was given, which goes from {low:g} to {high:g}")
    return value


def _above_0(value: float | str) -> float | str:
    low, _ = parse_schedule(value).bounds
    if not low > 0:
        raise ValueError(f"must be greater than 0, but {value} was given, which goes down to {low:g}")
    return value


Momentum = Annotated[Scheduled, AfterValidator(_between_0_and_1)]
"""A number in [0, 1], or a schedule of such numbers."""

Temperature = Annotated[Scheduled, AfterValidator(_above_0)]
"""A number > 0, or a schedule of such numbers."""


class TeacherSpec(Part):
    """The teacher; by default random, frozen and in evaluation mode (paper, section 3).

    DINO's teacher (appendix E.3) is ``{update: ema, momentum: "cosine(0.996, 1)", mode: train, statistics: data,
    center: 0.9, temperature: 0.04}``.
    """

    start_from: StartFrom | None = added(None)
    """Weights of another run to start from; null: a random draw."""
    width: float | None = added(None, gt=0, le=16)
    """As encoder.width, of the teacher's encoder alone; null: that of encoder.width. Another one needs student.alpha 1,
    as no start lies between networks of two sizes, and a teacher that never moves. Outputs are as many."""
    count: int | None = added(None, ge=1, le=64)
    """Random teachers, whose mean the student learns: the mean of their probabilities at teacher.temperature, not of
    their logits; null: one. The first is that of null: alpha, probes and distances are about it alone."""
    update: Literal["none", "ema", "previous_epoch"] = added("none")
    """none (frozen), ema (a moving average of the student's parameters, after every step) or previous_epoch (a copy of
    the student from the end of the last epoch)."""
    momentum: Momentum = added(0.996)
    """ema only: teacher = momentum x teacher + (1 - momentum) x student; in [0, 1], or a schedule."""
    mode: Literal["eval", "train"] = added("eval")
    """Whether the teacher's batch norms use running statistics (eval) or those of the batch (train)."""
    statistics: Literal["initial", "student", "data"] = added("initial")
    """Running statistics of the teacher's batch norms: initial (constant; mean 0 and variance 1 for a random draw),
    student (updated from the student's, as parameters are) or data (updated by the teacher's own forward passes)."""
    temperature: Temperature = added(1.0)
    """Divisor of the teacher's logits before the softmax; > 0, or a schedule."""
    center: Momentum | None = added(None)
    """Momentum of a running mean of the teacher's logits that is subtracted from them (DINO: 0.9); null: none."""

    @model_validator(mode="after")
    def _what_is_used(self) -> TeacherSpec:
        if self.update != "ema" and changed(self, "momentum"):
            raise ValueError(f"momentum belongs to update: ema; with update: {self.update} leave it out")
        if self.update == "none" and self.statistics == "student":
            raise ValueError("statistics follow the student only in a teacher that does: give update: ema, or data")
        if self.count is not None:
            self._several()
        return self

    def _several(self) -> None:
        """Refuse what is of one teacher; one is no other number."""
        if self.count == 1:
            self.__dict__["count"] = None
            return
        idle = [name for name in ("start_from", "update", "mode", "statistics", "center") if changed(self, name)]
        if idle:
            raise ValueError(f"count {self.count} is of random teachers that never move: leave out {', '.join(idle)}")

    @property
    def moves(self) -> bool:
        """Whether the teacher's parameters or statistics change during training."""
        return self.update != "none" or self.statistics != "initial"


PARTS = {
    "weight_norm_1": "wn",
    "linear_1": "lb",
    "feature_norm_1": "fn",
    "weight_norm_2": "wn",
    "linear_2": "l",
    "feature_norm_2": "fn",
}
"""The six parts in the order of the forward pass -> the mark of a part that is present."""
PAPER = "-/lb/fn/wn/l/-"
NAMED_PARTS = {"as_printed": PAPER, "as_published": "-/lb/fn/-/l/-"}
"""The bottleneck of the paper's text, and that of its authors' code since December 2022, whose last layer computes a
weight norm and does not use it: the published figures were probably made so."""


def parse_parts(value: object) -> str:
    """The canonical text of the parts, from a text, a name or six booleans by name; raises ValueError."""
    flags = _from_mapping(value) if isinstance(value, Mapping) else _from_text(NAMED_PARTS.get(str(value), str(value)))
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
    """Which of ``PARTS`` a parsed text has."""
    return {name: mark != "-" for name, mark in zip(PARTS, text.split("/"), strict=True)}


def factored(flags: Mapping[str, bool]) -> bool:
    """Whether logits are just features times the weight of linear 2."""
    return flags["linear_2"] and not flags["feature_norm_2"]


def _from_text(text: str) -> dict[str, bool]:
    marks = text.replace(" ", "").split("/")
    expected = " / ".join(f"{mark} or -" for mark in PARTS.values())
    if len(marks) != len(PARTS):
        raise ValueError(
            f"'{cut(text)}' has {len(marks)} parts; six are needed, {expected}; the paper's are {PAPER}; named are "
            f"{', '.join(NAMED_PARTS)}"
        )
    for place, (given, (name, mark)) in enumerate(zip(marks, PARTS.items(), strict=True), 1):
        if given not in ("-", mark):
            raise ValueError(f"part {place} of '{cut(text)}' is '{cut(given)}'; allowed for {name}: '{mark}' or '-'")
    return part_flags("/".join(marks))


def _from_mapping(value: Mapping[object, object]) -> dict[str, bool]:
    for name, given in value.items():
        if name not in PARTS:
            raise ValueError(f"unknown part '{name}';{guess(str(name), PARTS)} known: {', '.join(PARTS)}")
        if not isinstance(given, bool):
            raise ValueError(f"part {name} is {given!r}; allowed: true or false")
    missing = [name for name in PARTS if name not in value]
    if missing:
        raise ValueError(f"missing parts: {', '.join(missing)}; give true or false for each of the six")
    return {name: bool(value[name]) for name in PARTS}


BottleneckParts = Annotated[
    str,
    BeforeValidator(parse_parts),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(NAMED_PARTS)},
                {"type": "string", "pattern": "^(-|wn)/(-|lb)/(-|fn)/(-|wn)/(-|l)/(-|fn)$"},
                {"type": "object", "properties": {name: {"type": "boolean"} for name in PARTS}},
            ]
        }
    ),
]


def _known_encoder(name: str) -> str:
    if not is_reference(name):
        parse_encoder(name)
    return name


class EncoderSpec(Plugged):
    """The network whose embedding is probed; norm, width, attention and init are of rt-scale's own encoders."""

    name: Annotated[str, AfterValidator(_known_encoder)]
    """Name of an encoder (`rt-scale models`), e.g. resnet18, vgg11, convnet_32_2, or of a plugin: my_package.nets:Tiny,
    torchvision.models:resnet18, timm:create_model."""
    norm: Literal["batch", "instance", "group8", "layer", "none"]
    """Normalisation layers: batch, instance (each map), group8 (groups of 8 maps), layer (all maps) or none.

    Default: the paper's choice (batch for ResNets, none for VGG). ViTs allow only layer, MLPs and flatten only none.
    """
    width: float = Field(1.0, gt=0, le=16)
    """Multiplier of every layer's number of channels; 0 < width <= 16."""
    attention: Literal["tokens", "heads"] = added("tokens")
    """What attention mixes: the tokens of an image, or (*_shared ViTs only, as in table 5) the heads of a token."""
    init: Literal["default", "authors"] = added("default")
    """Initialisation: default, or for ViTs authors, that of the published code: class token and positions N(0, 1),
    linear layers and their biases torch's uniform, one patch embedding for teacher and student."""

    @model_validator(mode="before")
    @classmethod
    def _paper_norm(cls, given: object) -> object:
        if isinstance(given, dict) and isinstance(given.get("name"), str) and given.get("norm") is None:
            norm = "none"  # of a plugin
            with suppress(InputError):  # the check of the name tells of an unknown one, with all other mistakes
                norm = parse_encoder(given["name"]).design.default_norm
            return {**given, "norm": norm}
        return given

    @model_validator(mode="after")
    def _buildable(self) -> EncoderSpec:
        if self.plugin is None:
            named = parse_encoder(self.name)
            named.check(norm=self.norm, width=self.width, attention=self.attention)
            if self.init == "authors" and not named.is_vit:
                raise ValueError(
                    f"init authors is the published code's initialisation of ViTs; leave encoder.init out for "
                    f"'{self.name}', whose default is that of the published code"
                )
        elif (self.norm, self.width, self.attention, self.init) != ("none", 1.0, "tokens", "default"):
            raise ValueError(
                f"norm, width, attention and init are of rt-scale's encoders: leave them out of '{self.name}'"
            )
        return self


class ProjectorSpec(Part):
    """The MLP with the l2-bottleneck on top of the encoder (paper, appendix E.1)."""

    hidden: tuple[Annotated[int, Field(ge=1, le=MOST)], ...] = Field((2048, 2048), strict=False)
    """Widths of the hidden layers, each >= 1; may be empty."""
    bottleneck: int = Field(256, ge=1, le=65536)
    """Width k of the l2-bottleneck; 1 to 65,536."""
    out_dim: int = Field(65536, ge=1, le=65536)
    """Output dimension m; 1 to 65,536."""
    parts: BottleneckParts = added(PAPER)
    """Parts of the l2-bottleneck, as -/lb/fn/wn/l/- or six booleans: weight norm 1, linear 1 (with bias), feature
    norm 1, weight norm 2, linear 2, feature norm 2. as_printed: those, the paper's; as_published: those of its code,
    without weight norm 2. Without linear 2, linear 1 outputs out_dim values; without linear 1 the bottleneck is the
    last hidden layer."""
    activation: Literal["gelu", "relu"] = added("gelu")
    """Activation after every hidden layer: gelu or relu."""
    batch_norm: bool = added(False)
    """Whether hidden layers have a batch norm before their activation."""
    init: Literal["trunc_normal", "torch"] = added("trunc_normal")
    """Initialisation of linear layers: trunc_normal (sigma 0.02, biases 0) or torch (its uniform default)."""

    @model_validator(mode="after")
    def _widths(self) -> ProjectorSpec:
        if self.batch_norm and not self.hidden:
            raise ValueError("batch_norm acts in hidden layers, and hidden is empty: leave one out")
        flags = part_flags(self.parts)
        if not flags["linear_1"] and not self.hidden:
            raise ValueError("without linear 1 the bottleneck is the last hidden layer, and hidden is empty")
        # Equal runs have equal hashes: the width of an absent layer is that of the present one.
        if not flags["linear_2"]:
            self.__dict__["out_dim"] = self.out_dim if flags["linear_1"] else self.hidden[-1]
            self.__dict__["bottleneck"] = self.out_dim
        elif not flags["linear_1"]:
            self.__dict__["bottleneck"] = self.hidden[-1]
        return self


_ALPHA = 1e-10


class StudentSpec(Part):
    """The student: its start (paper, section 4, local initialisation), temperature and centring."""

    alpha: float = Field(_ALPHA, ge=0, le=1)
    """Locality: 0 starts at the teacher, 1 at an independent draw; in [0, 1]."""
    epsilon: float | None = added(None, ge=0)
    """Instead of alpha: the student starts at teacher + epsilon x an independent draw; >= 0."""
    start_from: StartFrom | None = added(None)
    """Instead of alpha: weights of another run to start from."""
    temperature: Temperature = added(1.0)
    """Divisor of the student's logits before the softmax; > 0, or a schedule (DINO: 0.1)."""
    center: Momentum | None = added(None)
    """Momentum of a running mean of the student's logits that is subtracted from them; null: none."""

    @model_validator(mode="after")
    def _one_form(self) -> StudentSpec:
        forms = {"alpha": self.alpha != _ALPHA, "epsilon": self.epsilon is not None}
        given = [name for name, is_given in (forms | {"start_from": self.start_from is not None}).items() if is_given]
        if len(given) > 1:
            count = "two" if len(given) == 2 else "three"
            raise ValueError(f"{', '.join(given)}: they are {count} forms of one choice, give one of them")
        return self
