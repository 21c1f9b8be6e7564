"""The training objective, the length of training, the optimiser and the probes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from rt_scale.plugins import is_reference
from rt_scale.spec.errors import InputError, guess
from rt_scale.spec.part import MOST, DataName, Part, Plugged, added
from rt_scale.spec.schedule import Duration, Moment, Scheduled, duration_steps
from rt_scale.spec.schedule import parse as parse_schedule

DISTANCES = ("cross_entropy", "kl", "mse")
"""The objectives that rt-scale has itself."""


def _distance(name: str) -> str:
    if name not in DISTANCES and not is_reference(name):
        raise InputError(f"'{name}' is not known;{guess(name, DISTANCES)} allowed: {', '.join(DISTANCES)}")
    return name


class ObjectiveSpec(Plugged):
    """The distance that training minimises, between student and teacher, or student and labels (kind supervise)."""

    name: Annotated[
        str,
        AfterValidator(_distance),
        WithJsonSchema({"anyOf": [{"enum": list(DISTANCES)}, {"type": "string", "pattern": ":"}]}),
    ] = added("cross_entropy")
    """cross_entropy or kl (of softmaxes, summed over outputs; equal gradients), or mse (of logits, mean over outputs);
    all are means over images and pairs of views. Kind supervise allows only cross_entropy. A plugin, e.g.
    my_losses:cosine, is called as f(student logits [B, m], teacher logits [B, m], **args) and gives a mean."""
    pairing: Literal["same", "opposite", "all"] = added("same")
    """The student's views of an image that each of the teacher's (global) views is compared with: the same view, all
    other views (opposite, as in DINO) or all."""
    label_noise: float = added(0.0, ge=0, le=1)
    """Kind supervise only: share of the training images with a random label, uniform over all classes."""


class OptimizerSpec(Part):
    """How the student's parameters are updated."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """adam, adamw or sgd, as in torch.optim."""
    lr: Scheduled = 1e-3
    """Learning rate, a number > 0 or a schedule such as linear(0, 5e-4, 10ep) + cosine(5e-4, 1e-6)."""
    weight_decay: Scheduled = 0.0
    """Weight decay, decoupled for adamw, a number >= 0 or a schedule such as cosine(0.04, 0.4)."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """sgd only: momentum, in [0, 1)."""
    decay_norm_and_bias: bool = added(True)
    """Whether weight decay also acts on normalisation scales and biases (parameters of one dimension)."""
    clip: float | None = added(None, gt=0)
    """Largest l2 norm of the whole gradient, which is clipped to it; > 0, null: no limit."""

    @field_validator("lr", "weight_decay")
    @classmethod
    def _not_negative(cls, value: float | str, info: ValidationInfo) -> float | str:
        low, high = parse_schedule(value).bounds
        if low < 0 or (info.field_name == "lr" and high == 0):
            wanted = "must be greater than 0" if info.field_name == "lr" else "must be greater than or equal to 0"
            raise ValueError(f"{wanted}, but {value} was given, which goes from {low:g} to {high:g}")
        return value

    @model_validator(mode="after")
    def _momentum_is_sgds(self) -> OptimizerSpec:
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum belongs to sgd; {self.name} has none, so leave it at 0")
        return self


class TrainSpec(Part):
    """The length of training and its steps."""

    epochs: int = Field(100, ge=1, le=MOST)
    """Passes over the training images; >= 1."""
    batch_size: int = Field(256, ge=1, le=MOST)
    """Images per step; the last step of an epoch takes the rest."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimiser."""
    freeze_last: Duration | None = added(None)
    """How long the projector's last layer is frozen, e.g. 1ep; null: not at all."""
    stop: Moment | None = added(None)
    """When training ends, before the end of its schedules, e.g. 2ep, 300it or 0ep (at its start); all schedules stay
    those of the whole epochs. Within an epoch, its means are those of the images seen. null: after the last epoch."""

    @model_validator(mode="after")
    def _stops_before_the_end(self) -> TrainSpec:
        if self.stop is not None and self.stop.endswith("ep") and (stop := int(self.stop[:-2])) >= self.epochs:
            if stop > self.epochs:
                raise ValueError(f"stop is {self.stop}, beyond the end of training after {self.epochs} epochs")
            self.__dict__["stop"] = None  # equal runs have equal hashes
        return self

    def length(self, steps_per_epoch: int) -> int:
        """The optimiser steps that schedules are made for."""
        return self.epochs * steps_per_epoch

    def end(self, steps_per_epoch: int) -> int:
        """The optimiser steps after which training ends."""
        return duration_steps(self.stop, steps_per_epoch) if self.stop is not None else self.length(steps_per_epoch)


class OwnProbe(Plugged):
    """A probe of yours, a plugin.

    It is called as f(train embeddings [N, D], train labels [N], test embeddings, test labels, *, classes, seed, **args)
    and gives a number, or a mapping of names to numbers.
    """

    name: str
    """The plugin, e.g. my_probes:centroids; its metric is extra/<role>/centroids."""

    @model_validator(mode="after")
    def _a_plugin(self) -> OwnProbe:
        if self.plugin is None:
            raise ValueError(f"'{self.name}' is no plugin: write package.module:function, e.g. my_probes:centroids")
        return self

    @property
    def metric(self) -> str:
        """The last part of the name of its metric."""
        return self.name.partition(":")[2]


class CurvatureSpec(Part):
    """The Hessian of the student's training loss, in all parameters, on training images without augmentation.

    In batches of train.batch_size, whose statistics batch norms use, as in training. Not a probe of the paper.
    """

    images: int = Field(256, ge=1, le=MOST)
    """Training images that the loss is the mean over, balanced over the classes; at least one a class."""
    eigenvalues: int = Field(2, ge=0, le=1000)
    """How many of largest magnitude, with their signs; 0: none."""
    iterations: int = Field(30, ge=1, le=MOST)
    """Most products of the Hessian with a vector for an eigenvalue (power iteration)."""
    vectors: int = Field(10, ge=0, le=MOST)
    """Random vectors for the trace (Hutchinson's estimator), at least 2 for its standard error; 0: no trace."""

    @model_validator(mode="after")
    def _something(self) -> CurvatureSpec:
        if self.vectors == 1:
            raise ValueError("one vector gives a trace without its error: set vectors to 2 or more, or to 0")
        if not self.eigenvalues and not self.vectors:
            raise ValueError("nothing would be measured: set eigenvalues to 1 or more, or vectors to 2 or more")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of its metrics."""
        numbers = range(1, self.eigenvalues + 1)
        eigenvalues = tuple(f"curvature/{name}_{each}" for each in numbers for name in ("eigenvalue", "residual"))
        return (*eigenvalues, *(("curvature/trace", "curvature/trace_error") if self.vectors else ()))

    @property
    def products(self) -> int:
        """Most products of the Hessian with a vector."""
        return self.eigenvalues * self.iterations + self.vectors


class LayersSpec(Part):
    """Statistics of the outputs of every layer of student and teacher, and of the input, in evaluation mode.

    Feature maps and tokens are flattened. They are layers/<role>/<statistic>_<layer> (01, 02, ..., embedding) and
    layers/input/<statistic>. cosine: the mean over pairs of images. effective_rank: exp of the entropy of the singular
    values of the centred outputs. log_condition: log10 of the largest to the smallest eigenvalue of the covariance, at
    most 14. separability: the share of the variance that lies between the means of classes.
    """

    images: int = Field(256, ge=2, le=MOST)
    """Test images, balanced over the classes; at least one a class."""


class ProbeSpec(Part):
    """How labels measure the quality of embeddings (paper, section 3 'Probing', appendix C.1)."""

    every: Duration | None = "5ep"
    """How often the student is probed, besides its start and end; null: never."""
    linear: bool = True
    """Whether a linear classifier is trained on the embeddings."""
    knn: int = Field(20, ge=0, le=MOST)
    """Neighbours of the k-nearest-neighbour classifier; 0: no such classifier."""
    standardized: bool = True
    """Whether all probes are repeated on embeddings standardised per dimension."""
    epochs: int = Field(10, ge=1, le=MOST)
    """Epochs of the linear classifier."""
    batch_size: int = Field(256, ge=1, le=MOST)
    """Embeddings per step of the linear classifier."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of the linear classifier's AdamW."""
    logistic: bool = added(False)
    """Whether multinomial logistic regression is also fitted to convergence; not a probe of the paper."""
    ridge: bool = added(False)
    """Whether a ridge classifier is also fitted in closed form, which is fast; not a probe of the paper."""
    l2: float = added(1e-3, gt=0)
    """Penalty of logistic and ridge on squared weights, added to the mean loss, for embeddings of mean variance 1."""
    also: tuple[DataName, ...] = added((), strict=False)
    """Other prepared data sets to probe on, whole splits with the encoder's channels, e.g. [cifar100, stl10]."""
    also_size: Literal["encoder", "own"] = added("encoder")
    """Image size for the sets in also: encoder (the encoder's training size) or own (the prepared size, as in tables 2
    and 4 of the paper, whose teachers are those of tables 1 and 3). Without also: encoder."""
    own: bool = added(True)
    """Whether the training data set is probed too; false: only those in also, e.g. for millions of images."""
    baselines: bool = added(True)
    """Whether input and teacher are probed too; false: the student alone, as in an ordinary supervised training."""
    statistics: bool = added(False)
    """Whether every probing also measures rank, dead units and agreement with the teacher of the embeddings, and
    distance and angle of encoder and projector from start and teacher."""
    curvature: CurvatureSpec | None = added(None)
    """Whether every probing also measures the curvature of the training loss, e.g. {} or {eigenvalues: 5}; null: no."""
    layers: LayersSpec | None = added(None)
    """Whether every probing also measures how images propagate through the layers, e.g. {} or {images: 1000}; null:
    no."""
    extra: tuple[OwnProbe, ...] = added((), strict=False)
    """Probes of yours, e.g. [{name: my_probes:centroids, args: {k: 3}}]; embeddings are as the encoder gives them."""

    @field_validator("extra")
    @classmethod
    def _different_metrics(cls, extra: tuple[OwnProbe, ...]) -> tuple[OwnProbe, ...]:
        names = [probe.metric for probe in extra]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"several probes are called {', '.join(twice)}: metrics need different names")
        return tuple(sorted(extra, key=lambda probe: probe.name))

    @field_validator("also")
    @classmethod
    def _one_order(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """Sorted, so that the order does not change the hash."""
        if len(set(names)) < len(names):
            raise ValueError(f"each data set is probed once; given: {', '.join(names)}")
        return tuple(sorted(names))

    @model_validator(mode="after")
    def _one_size(self) -> ProbeSpec:
        """Constant without other data sets, so that it does not change the hash."""
        if not self.also:
            self.__dict__["also_size"] = "encoder"
        return self

    @model_validator(mode="after")
    def _something(self) -> ProbeSpec:
        if not self.roles:
            for name in ("standardized", "epochs", "batch_size", "lr", "l2", "baselines"):  # equal runs, equal names
                self.__dict__[name] = type(self).model_fields[name].default
            if self.also:
                raise ValueError(
                    f"nothing would be probed on {', '.join(self.also)}: set linear to true, or leave out also"
                )
        if not self.own and not self.also:
            raise ValueError("nothing would be probed: name data sets in also, or set own to true")
        if not self.own and self.statistics:
            raise ValueError("statistics are of the test images of the data set distilled on: set own to true")
        if not self.own and self.layers is not None:
            raise ValueError("layers are measured on test images of the data set that is trained on: set own to true")
        if self.statistics and not self.baselines:
            raise ValueError("statistics compare the student with its teacher: leave baselines at true")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the probes, e.g. ``linear``, ``knn``, ``linear_standardized``, ``knn_standardized``."""
        asked = {"linear": self.linear, "knn": self.knn > 0, "logistic": self.logistic, "ridge": self.ridge}
        plain = tuple(name for name, wanted in asked.items() if wanted)
        return plain + tuple(f"{name}_standardized" for name in plain if self.standardized)

    @property
    def roles(self) -> tuple[str, ...]:
        """What is probed, the student first; empty without probes."""
        if not self.kinds and not self.extra:
            return ()
        return ("student", "teacher", "input") if self.baselines else ("student",)
