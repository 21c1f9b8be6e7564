"""The kind landscape: measures on a grid of the plane through three networks (paper, figures 5, 13-16)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rt_scale.data.prepared import KnownData, Prepared
from rt_scale.experiments.base import Cost, Experiment, Length, Needs, Outcome, Sets
from rt_scale.experiments.check import image_bytes, training_samples
from rt_scale.spec.errors import InputError, counted
from rt_scale.spec.experiments.landscape import LandscapeSpec

if TYPE_CHECKING:
    from rt_scale.experiments.context import Context

TOGETHER = 8
"""Points, one after the other in the order of the grid, that one process measures together."""


class Landscape(Experiment[LandscapeSpec]):
    """A plane, whose values are ``artifacts/plane.npz`` from the first points on."""

    spec = LandscapeSpec

    def validate(self, spec: LandscapeSpec, data: Sets | None) -> None:
        """Refuse more images than there are, and networks for other images."""
        assert data is not None
        assert isinstance(data.main, Prepared)  # the spec refuses drawn inputs
        info, run = data.main.info, spec.origin.run
        train, least = training_samples(run, data.main), len(info.classes) if info.labelled else 1
        for field in ("images", "probe_images"):
            asked, there = getattr(spec, field), min(train, info.test)
            if asked is not None and not least <= asked <= there:
                raise InputError(
                    f"{field} is {asked:,}, but the smaller split of '{info.name}' has {there:,} images here, and each "
                    f"class gives at least one: give a number from {least} to {there:,}, or null for all of both."
                )
        if spec.probed and not info.labelled:
            raise InputError(
                f"measures names {', '.join(spec.probed)}, but images of '{info.name}' have no labels to probe with: "
                "name losses alone, e.g. [kl_train, kl_test]."
            )
        fitted = spec.probe_images or train
        if any(name.startswith("knn") for name in spec.probed) and not 1 <= run.probe.knn <= fitted:
            raise InputError(
                f"measures names knn, and probe.knn of origin.run is {run.probe.knn}: there must be 1 to {fitted:,} "
                "neighbours among the images that are probed. Change it there, raise probe_images, or leave knn out."
            )

    def check_workers(self, spec: LandscapeSpec, data: Sets | None, workers: int) -> None:
        """Refuse more workers than groups of points."""
        points = points_here(spec)
        if points and workers > (groups := math.ceil(points / TOGETHER)):
            raise InputError(
                f"{workers} workers were asked for, but '{spec.title}' measures {counted(points, 'point')}, {TOGETHER} "
                f"together: give at most {counted(groups, 'worker')}."
            )

    def needs(self, spec: LandscapeSpec, data: Sets | None) -> Needs:
        """Memory for the images."""
        assert data is not None
        return Needs(image_bytes(spec.origin.run, data.main))

    def cost(self, spec: LandscapeSpec, known: KnownData) -> Cost:
        """A step is a point."""
        return Cost(Length(max(1, points_here(spec))))

    def load(self) -> None:
        """Import networks and measures."""
        import rt_scale.experiments.plane  # noqa: F401

    def run(self, spec: LandscapeSpec, context: Context) -> Outcome:
        """Measure all points, or those that the newest checkpoint lacks."""
        from rt_scale.experiments.plane import PlaneRun

        return PlaneRun(spec, context).compute()


def points_here(spec: LandscapeSpec) -> int:
    """How many points this run measures itself, without those of the planes that it starts from."""
    if spec.shares:
        return 0
    new = spec.size - (0 if spec.coarse is None else spec.coarse.size)
    if spec.share is None:
        return new
    groups, rest = divmod(new, TOGETHER)
    mine = len(range(spec.share, groups, spec.split)) * TOGETHER
    return mine + (rest if groups % spec.split == spec.share else 0)
