"""The spec of the kind landscape: measures on a grid of the plane through three networks (paper, figures 5, 13-16)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from rt_scale.spec.data import GAUSSIAN, DataSpec
from rt_scale.spec.errors import counted, shown
from rt_scale.spec.experiments.network import MOST_NETWORKS, NetworkOf, Networks, plugins_of
from rt_scale.spec.experiments.training import TrainingSpec, part_text
from rt_scale.spec.part import MOST, added
from rt_scale.spec.run import RunSpec

POINTS_LIMIT = 100_000
"""Most points of a plane that needs no confirmation."""
LEAST_COARSE = 11
"""Points a side, at least, of a plane that a finer one takes its points from."""

Side = tuple[float, float]
Measure = Literal[
    "kl_train", "kl_test", "cross_entropy_train", "cross_entropy_test", "entropy_train", "entropy_test",
    "kl_embedding_train", "kl_embedding_test", "linear", "linear_standardized", "ridge", "knn", "knn_standardized",
]  # fmt: skip
"""What can be measured at a point, see ``analyses.measures``."""


def _from_crop(value: object) -> object:
    """The window of ``{around: [x, y], by: r}``, so that equal windows have equal hashes."""
    if not isinstance(value, Mapping):
        return value
    around, by = value.get("around"), value.get("by")
    numbers = [*(around if isinstance(around, list | tuple) else []), by]
    if value.keys() != {"around", "by"} or not all(type(each) in (int, float) for each in numbers):
        raise ValueError(f"a crop is {{around: [x, y], by: half a side}}, but {shown(dict(value))} was given")
    return [[each - by, each + by] for each in around]  # type: ignore[union-attr]


Window = Annotated[
    tuple[Annotated[Side, Field(strict=False)], ...],
    BeforeValidator(_from_crop),
    WithJsonSchema({"type": ["array", "object"]}),
]


class LandscapeSpec(RunSpec):
    """Measures at the points of a grid in the plane through three networks of runs of one architecture, or of a line.

    A point (a, b) is the network with the weights origin + a (x - origin) + b (y - origin): origin is at (0, 0), x at
    (1, 0), y at (0, 1). These coordinates are the same for a whole network and for its encoder. Pictures in orthonormal
    coordinates are the same grid, sheared. A line has the points (a). Images, their labels and their subset are those
    of ``origin.run``.
    """

    free: ClassVar[Mapping[str, tuple[tuple[str, ...], ...]]] = {
        name: () for name in ("seeds", "directions", "x", "y", "path", "window", "points", "split", "share")
    }

    kind: Literal["landscape"] = "landscape"
    """Kind of run."""
    origin: NetworkOf
    """The network at (0, 0), whose outputs all others are compared with; its run gives the images."""
    directions: Literal["networks", "random", "pca"] = added("networks")
    """What leads from origin to x and y: networks (those named), random (a Gaussian direction each, drawn from
    seeds.student, whose filters have the norms of origin's; biases and norms stay; Li et al. 2018) or pca (the first
    principal components of path less origin, as long as path reaches)."""
    x: NetworkOf | None = None
    """The network at (1, 0); its ``run`` may be `same` (that of origin) or `{same_but: {...}}`. directions: networks
    alone."""
    y: NetworkOf | None = None
    """The network at (0, 1), likewise; null: a line."""
    path: Networks = added((), strict=False, max_length=MOST_NETWORKS)
    """Networks that are measured as well, and their places in the plane, e.g. of a run along its training: a list of
    {run, take}, or {run: same, vary: train.stop, values: [1ep, 2ep, 4ep]}."""
    window: Window = Field(((-0.5, 1.5), (-0.5, 1.5)), strict=False)
    """The rectangle [[x from, x to], [y from, y to]] in these coordinates, or `{around: [x, y], by: half a side}`; of a
    line [[from, to]]. If it is left out: -0.5 to 1.5, with directions other than networks -1 to 1."""
    points: tuple[Annotated[int, Field(ge=2, le=MOST)], ...] = Field((51, 51), strict=False)
    """Points along x and along y, edges included; of a line one number. A plane of 2 n - 1 points a side takes over
    those of the plane of n, a run of its own that comes first, if n is at least 11: 21, 41 and 81 continue 11."""
    measures: tuple[Measure, ...] = Field(get_args(Measure), strict=False)
    """What is measured at a point: losses on both splits, in nats, of its softmax of outputs (kl to that of origin,
    cross_entropy, entropy) and of embeddings (kl_embedding), and accuracies of probes."""
    images: Annotated[int, Field(ge=1, le=MOST)] | None = None
    """Images of each split, at most, balanced over the classes, for losses; null: all. A few hundred give KL to 1 %."""
    probe_images: Annotated[int, Field(ge=1, le=MOST)] | None = None
    """Images of each split, likewise, for probes; null: all. Probes are fitted as those of ``origin.run``; linear ones
    take as many steps as on all images."""
    statistics: Literal["interpolated", "batch"] = "interpolated"
    """Statistics of batch norms at a point: interpolated as the weights are, so that each network has its own, or those
    of each batch of images. Without batch norms: interpolated."""
    split: int = Field(1, ge=1, le=1000)
    """How many runs, each with a share of the points, compute the plane; this run puts them together."""
    share: Annotated[int, Field(ge=0)] | None = None
    """The share that this run computes, from 0 to split - 1; null: all. The runs of a split plane have one each."""

    @model_validator(mode="before")
    @classmethod
    def _of_its_axes(cls, given: object) -> object:
        """Points and window as many as axes, if they are left out."""
        if not isinstance(given, Mapping):
            return given
        networks = given.get("directions", "networks") == "networks"
        points = given.get("points", [51] if networks and given.get("y") is None else [51, 51])
        side = [-0.5, 1.5] if networks else [-1.0, 1.0]
        axes = len(points) if isinstance(points, list | tuple) else 2
        return {"points": points, "window": [side] * axes, **given}

    @field_validator("measures")
    @classmethod
    def _one_order(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """Their own, so that the order in a file does not change the hash."""
        if not names or len(set(names)) < len(names):
            raise ValueError(f"name at least one measure, and each once; given: {', '.join(names) or 'none'}")
        return tuple(name for name in get_args(Measure) if name in names)

    @model_validator(mode="after")
    def _consistent(self) -> LandscapeSpec:
        if self.origin.run.data.name == GAUSSIAN:
            raise ValueError("origin.run is on gaussian inputs, of which there are no test images: name another run")
        for name, network in self.networks.items():
            _same_architecture(name, self.origin.run, network.run)
        self._axes_fit()
        corners = [self.origin.canonical_text, *(each.canonical_text for each in (self.x, self.y) if each is not None)]
        if len(set(corners)) < len(corners):
            raise ValueError("two of origin, x and y are the same network of the same run: a plane needs three")
        for name, (low, high), count in zip("xy", self.window, self.points, strict=False):
            _fits_grid(name, low, high, count)
        run = self.origin.run
        if run.encoder.norm != "batch" and run.encoder.plugin is None and not run.projector.batch_norm:
            self.__dict__["statistics"] = "interpolated"  # equal runs have equal hashes
        if self.share is not None and (self.split == 1 or self.share >= self.split):
            raise ValueError(f"share {self.share} is of a plane split into {self.split}: give 0 to split - 1, or null")
        return self

    def _axes_fit(self) -> None:
        """Refuse more or fewer axes than there are directions."""
        axes = len(self.points)
        if not 1 <= axes <= 2 or len(self.window) != axes:
            raise ValueError(
                f"points has {axes} and window {len(self.window)} sides: a line has one each, [51] and [[-0.5, 1.5]], "
                "a plane two"
            )
        if self.directions != "networks":
            if self.x is not None or self.y is not None:
                raise ValueError(f"x and y are networks, and directions is {self.directions}: leave them out")
        elif self.x is None:
            raise ValueError("x is not given: name the network at (1, 0), or set directions to random or pca")
        elif axes != (1 if self.y is None else 2):
            raise ValueError(
                f"points has {axes} sides, and {'y is not given' if self.y is None else 'y is given'}: a line has no y "
                "and one side, a plane a y and two"
            )
        if self.directions == "pca" and len(self.path) < axes:
            raise ValueError(
                f"path has {counted(len(self.path), 'network')}, which have no {axes} principal components: name the "
                "networks of a run along its training, e.g. {run: same, vary: train.stop, values: [1ep, 2ep, 4ep]}"
            )

    @property
    def networks(self) -> dict[str, NetworkOf]:
        """Those of other runs, by name: origin, x and y if they are, and those of the path."""
        named = {"origin": self.origin, "x": self.x, "y": self.y}
        path = {f"path {number}": network for number, network in enumerate(self.path)}
        return {name: network for name, network in named.items() if network is not None} | path

    @property
    def probed(self) -> tuple[str, ...]:
        """The measures that are accuracies of probes."""
        return tuple(name for name in self.measures if not name.endswith(("_train", "_test")))

    @property
    def size(self) -> int:
        """Points of the whole grid."""
        return math.prod(self.points)

    @property
    def large(self) -> str:
        """A plane or line of more than ``POINTS_LIMIT`` points."""
        if self.size <= POINTS_LIMIT:
            return ""
        if len(self.points) == 1:
            return f"a line of {self.size:,} points, more than {POINTS_LIMIT:,}"
        return f"a plane of {self.points[0]:,} x {self.points[1]:,} = {self.size:,} points, more than {POINTS_LIMIT:,}"

    @functools.cached_property
    def coarse(self) -> LandscapeSpec | None:
        """The plane with every second point of each side; None if there is none, or it has too few."""
        halves = [divmod(count - 1, 2) for count in self.points]
        if any(odd or half + 1 < LEAST_COARSE for half, odd in halves):
            return None
        return self._but(points=tuple(half + 1 for half, _ in halves), share=None)

    @functools.cached_property
    def shares(self) -> tuple[LandscapeSpec, ...]:
        """The runs that compute this plane; empty if it is computed here."""
        if self.split == 1 or self.share is not None:
            return ()
        return tuple(self._but(share=number) for number in range(self.split))

    def _but(self, **changes: object) -> LandscapeSpec:
        """This plane with other values of some fields."""
        return LandscapeSpec.model_validate({name: getattr(self, name) for name in type(self).model_fields} | changes)

    @functools.cached_property
    def dependencies(self) -> tuple[RunSpec, ...]:
        """The runs of its networks, the coarser plane, and the shares of this one."""
        coarse = () if self.coarse is None else (self.coarse,)
        return (*super().dependencies, *coarse, *self.shares)

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The set of origin's run."""
        return (self.origin.run.data.name,)

    @property
    def plugins(self) -> dict[str, str]:
        """Those of its networks that it uses: encoder and images."""
        return plugins_of(self.origin.run)

    @property
    def readers(self) -> tuple[DataSpec, ...]:
        """The images, if a plugin gives them."""
        return self.origin.run.readers

    @property
    def data_words(self) -> str:
        """As of origin's run, with the numbers of images."""
        numbers = {"images": self.images, "probe_images": self.probe_images}
        return " ".join([self.origin.run.data_words, *(f"{name} {n}" for name, n in numbers.items() if n is not None)])

    @property
    def precisions(self) -> tuple[str, ...]:
        """That of origin's run."""
        return self.origin.run.precisions

    @property
    def title(self) -> str:
        """Points, networks, encoder and data set."""
        share = "" if self.share is None else f", share {self.share + 1} of {self.split}"
        others: list[str] = [each.take for each in (self.x, self.y) if each is not None]
        others = others or [f"{self.directions} directions"]
        sides = " x ".join(map(str, self.points))
        through = ", ".join([self.origin.take, *others[:-1]])
        kind = "line" if len(self.points) == 1 else "plane"
        return f"{kind} of {sides} through {through} and {others[-1]}{share}: {self.origin.run.title}"


def _same_architecture(name: str, origin: TrainingSpec, other: TrainingSpec) -> None:
    """Refuse a network without a place in a plane of weights."""
    for part in ("encoder", "projector"):
        own, its = getattr(origin, part), getattr(other, part)
        if own != its:
            raise ValueError(
                f"{name}.run has the {part} {part_text(its)}, origin.run {part_text(own)}: a plane goes through "
                "networks of one architecture"
            )


def _fits_grid(name: str, low: float, high: float, count: int) -> None:
    """Refuse a side whose points are not all different and ascending."""
    step = (high - low) / (count - 1)
    if not step > 0 or not math.isfinite(high - low):
        raise ValueError(f"window goes along {name} from {low:g} to {high:g}: give two ascending numbers")
    if step < 1e-9 * max(abs(low), abs(high)):
        raise ValueError(
            f"window goes along {name} from {low!r} to {high!r}, and {count} points between them are closer than "
            "weights can tell apart: give fewer points, or a wider window"
        )
