"""The spec of the kind connect: the straight lines between trained classifiers (linear mode connectivity)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rt_scale.spec.data import DataSpec
from rt_scale.spec.errors import counted
from rt_scale.spec.experiments.network import MOST_NETWORKS, Networks, plugins_of
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.part import MOST, json_text
from rt_scale.spec.run import RunSpec, When

ESTIMATION_IMAGES = 10_000
"""Training images that estimate statistics where ``estimation_images`` is null, if there are as many."""
MOST_POINTS = 100_000


class ConnectSpec(RunSpec):
    """Error, loss and accuracy on the straight line between every pair of classifiers (paper, figure 9)."""

    kind: Literal["connect"] = "connect"
    """Kind of run."""
    ends: Networks = Field(strict=False, max_length=MOST_NETWORKS)
    """The networks: a list of {run, take}, or runs that differ in one field: {run: ..., vary: seeds.order, values: [0,
    1, 2, 3, 4]}."""
    points: int = Field(50, ge=2, le=MOST_POINTS)
    """Points of each line, equally spaced, both ends included (the paper: 50)."""
    splits: tuple[Literal["test", "train"], ...] = Field(("test", "train"), strict=False, min_length=1)
    """The images that networks are measured on: test, train (those that the ends are trained on, without augmentation,
    with their true labels)."""
    statistics: Literal["estimated", "interpolated", "batch"] = "estimated"
    """Statistics of batch norms on the lines, ends included: estimated (anew at each point, means over batches of
    training images), interpolated (as parameters are) or batch (those of each measured batch)."""
    estimation_images: int | None = Field(None, ge=2, le=MOST)
    """statistics estimated only: training images that estimate them, un-augmented, in one fixed order; null: 10,000, or
    all if there are fewer."""
    images: int | None = Field(None, ge=1, le=MOST)
    """Images of each split, the first of a fixed order; null: all."""
    align: Literal["none", "weights"] = "none"
    """none, or weights: of each pair also the line is measured to the second network with its units permuted to match
    those of the first (weight matching, which leaves its outputs unchanged)."""

    @field_validator("splits")
    @classmethod
    def _one_order(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        """Sorted, so that the order does not change the hash."""
        if len(set(splits)) < len(splits):
            raise ValueError(f"each split is measured once; given: {', '.join(splits)}")
        return tuple(sorted(splits))

    @model_validator(mode="after")
    def _consistent(self) -> ConnectSpec:
        if len(self.ends) < 2:
            raise ValueError(
                f"ends has {counted(len(self.ends), 'network')}, and a line has two ends: list at least 2 networks, or "
                "give a run with vary and at least 2 values"
            )
        if self.estimation_images is not None and self.statistics != "estimated":
            raise ValueError(f"estimation_images belongs to statistics: estimated, not {self.statistics}: leave it out")
        for (i, one), (j, other) in itertools.combinations(enumerate(self.ends), 2):
            if (one.run.name, one.take) == (other.run.name, other.take):
                raise ValueError(f"ends {i} and {j} are one network, the {one.take} of {one.run.name}: list each once")
        for number, end in enumerate(self.ends):
            if not end.run.learns_labels:
                raise ValueError(
                    f"end {number} is of kind {end.run.kind}, which learns no labels, and error and loss are those of "
                    "classifiers: let the ends be of kind supervise (their student.start_from may be a distilled one)"
                )
            self._alike(number, end.run)
        return self

    def _alike(self, number: int, run: TrainingSpec) -> None:
        """Refuse an end that is not on a line with the first, or is not trained on its images."""
        first = self.ends[0].run
        for field in ("encoder", "projector", "precision"):
            one, other = (json_text(getattr(each, field)) for each in (first, run))
            if one != other:
                raise ValueError(
                    f"ends 0 and {number} differ in {field}, {one} and {other}: only networks of one architecture lie "
                    "on a line"
                )
        data, its = first.data, run.data
        if (data.name, data.size) != (its.name, its.size):
            raise ValueError(
                f"ends 0 and {number} are trained on {data.name} and {its.name} at the sizes {data.size} and "
                f"{its.size} (None: as prepared): give ends of one data set"
            )
        if (_subset(first) != _subset(run)) and ("train" in self.splits or self.statistics == "estimated"):
            raise ValueError(
                f"ends 0 and {number} are trained on different images (data.samples with another seeds.data), so that "
                "the training images are not one set: vary seeds.order, which changes the order alone, or set splits "
                "to [test] and statistics to interpolated or batch"
            )

    @property
    def run(self) -> TrainingSpec:
        """The run of the first end; the others have its architecture and data set."""
        return self.ends[0].run

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The lines, by the numbers of their ends."""
        return list(itertools.combinations(range(len(self.ends)), 2))

    @property
    def steps(self) -> int:
        """Networks that are measured: the ends once, and the points between them, with align on two lines a pair."""
        lines = len(self.pairs) * (1 if self.align == "none" else 2)
        return len(self.ends) + lines * (self.points - 2)

    @property
    def estimates(self) -> bool:
        """Whether statistics are estimated at every point: a user's encoder may have batch norms."""
        run = self.run
        norms = run.encoder.norm == "batch" or run.projector.batch_norm or run.encoder.plugin is not None
        return norms and self.statistics == "estimated"

    @functools.cached_property
    def shape(self) -> str:
        """Equal for equal work at a point, so without the number of points."""
        fields = {name: getattr(self, name) for name in ("kind", "splits", "statistics", "estimation_images", "images")}
        return json_text({**fields, "end": self.run.shape})

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The set that the ends are trained on."""
        return (self.run.data.name,)

    @property
    def data_words(self) -> str:
        """As of its ends."""
        return self.run.data_words

    @property
    def precisions(self) -> tuple[str, ...]:
        """That of its networks."""
        return self.run.precisions

    @property
    def plugins(self) -> dict[str, str]:
        """Those of its ends that it uses: encoder and images."""
        return plugins_of(self.run)

    @property
    def readers(self) -> tuple[DataSpec, ...]:
        """The images, if a plugin gives them."""
        return self.run.readers

    @property
    def logged(self) -> Mapping[str, When]:
        """Means over the pairs, and of the ends, after each pair."""
        lines = ("",) if self.align == "none" else ("", "_aligned")
        barriers = (f"{name}{line}/{split}/{measure}" for line in lines for name in ("barrier", "barrier_line")
                    for split in self.splits for measure in ("error", "loss"))  # fmt: skip
        ends = (f"ends/{split}/{measure}" for split in self.splits for measure in ("accuracy", "loss"))
        apart = [f"ends/{name}" for name in ("l2", "cosine")]
        aligned = ["ends/l2_aligned", "ends/cosine_aligned", "ends/permuted"] if self.align != "none" else []
        return dict.fromkeys([*barriers, *ends, *apart, *aligned], "epoch")

    @property
    def title(self) -> str:
        """Ends, points, statistics and what the ends are."""
        aligned = "" if self.align == "none" else ", aligned"
        lines = f"{counted(len(self.pairs), 'line')} of {self.points} points"
        return f"{lines}, statistics {self.statistics}{aligned}: {self.run.title}"


def _subset(run: TrainingSpec) -> tuple[int, int] | None:
    """What decides the images that a run trains on; None: all of its data set."""
    return None if run.data.samples is None else (run.data.samples, run.seeds.data)


ConnectSpec.model_rebuild(_types_namespace={"TrainingSpec": TrainingSpec})
