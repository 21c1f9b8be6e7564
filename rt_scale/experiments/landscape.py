"""The kind landscape: measures on a grid of the plane through three networks (paper, figures 5, 13-16)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from rt_scale.data.prepared import KnownData, Prepared
from rt_scale.experiments.base import Cost, Experiment, Length, Needs, Outcome, Sets
from rt_scale.experiments.check import fits_start, image_bytes, training_samples
from rt_scale.spec.errors import InputError, counted
from rt_scale.spec.experiments.landscape import LandscapeSpec

if TYPE_CHECKING:
    from rt_scale.data.meta import DataInfo
    from rt_scale.experiments.context import Context
    from rt_scale.experiments.flops import RunWork, Work

TOGETHER = 8
"""Points, one after the other in the order of the grid, that one process measures together."""


class Landscape(Experiment[LandscapeSpec]):
    """A plane or line, whose values are ``artifacts/plane.npz`` or ``line.npz`` from the first points on."""

    spec = LandscapeSpec

    def validate(self, spec: LandscapeSpec, data: Sets | None) -> None:
        """Refuse more images than there are, and networks for other images."""
        assert data is not None
        assert isinstance(data.main, Prepared)  # the spec refuses drawn inputs
        info, run = data.main.info, spec.origin.run
        for name, network in spec.networks.items():
            fits_start(run, data.main, network.run, data.starts[network.run.name].main, f"{name}.run")
        train, least = training_samples(run, data.main), len(info.classes) if info.labelled else 1
        for field in ("images", "probe_images"):
            asked, there = getattr(spec, field), max(train, info.test)
            if asked is not None and not least <= asked <= there:
                raise InputError(
                    f"{field} is {asked:,}, but the larger split of '{info.name}' has {there:,} images here, and each "
                    f"class gives at least one: give a number from {least} to {there:,}, or null for all of both."
                )
        if spec.probed and not info.labelled:
            raise InputError(
                f"measures names {', '.join(spec.probed)}, but images of '{info.name}' have no labels to probe with: "
                "name losses alone, e.g. [kl_train, kl_test]."
            )
        fitted = min(spec.probe_images or train, train)
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
        """A step is a point; a user's encoder is not run."""
        from rt_scale.experiments.flops import meta_batch

        length, run = Length(max(1, points_here(spec))), spec.origin.run
        info = known.main(run)
        assert info is not None, "asked for before it was known"
        if run.encoder.plugin is not None:
            return Cost(length, unknown=f"a plan does not run the plugin {run.encoder.plugin}")
        return Cost(length, lambda: _work(spec, info), lambda: meta_batch(run, info))

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


def _work(spec: LandscapeSpec, info: DataInfo) -> RunWork:
    """The work of a plane, which begins with origin's own pass, the corners and the path."""
    from rt_scale.experiments.flops import OBJECTIVE_PASSES, Phase, RunWork, Work, forward_work, meta_network

    run, network = spec.origin.run, meta_network(spec.origin.run, info)
    there = {"train": run.data.samples or info.train, "test": info.test}
    of_losses = [count for split, count in there.items() if any(name.endswith(split) for name in spec.measures)]
    compared = sum(min(spec.images or count, count) for count in of_losses)
    probed = {split: min(spec.probe_images or count, count) for split, count in there.items()} if spec.probed else {}
    logits = compared * run.projector.out_dim
    sums = 4 * 3 * sum(each.numel() for each in network.parameters())
    # Logits once more for those of origin, which are kept only where they fit.
    point = forward_work(run, info) * (max(compared, sum(probed.values())) / run.train.batch_size)
    point += Work(product=2.0 * run.projector.bottleneck * logits, traffic=4.0 * (OBJECTIVE_PASSES * logits + sums))
    if spec.probed:
        sizes = network.encoder.embed_dim, len(info.classes)
        point += _probing(spec, there["train"], probed["train"], probed["test"], *sizes)
    return RunWork(Phase(point * (2 + len(spec.points) + len(spec.path))), Phase(point), Phase(Work()))


def _probing(spec: LandscapeSpec, steps_of: int, train: int, test: int, width: int, classes: int) -> Work:
    """The work of the probes of a point; linear ones take the steps of ``steps_of`` images."""
    from rt_scale.experiments.flops import Work, probe_work

    work = Work()
    for kinds, fitted, together in ((("linear",), steps_of, TOGETHER), (("knn", "ridge"), train, 1)):
        asked = [name for name in spec.probed if name.startswith(kinds)]
        recipe = dict.fromkeys(("linear", "logistic", "ridge", "standardized"), False) | {"knn": 0}
        recipe |= {name.partition("_")[0]: True for name in asked}
        recipe |= {"standardized": any(name.endswith("_standardized") for name in asked)}
        probes = probe_work(spec.origin.run.probe.model_copy(update=recipe), fitted, test, width, classes)
        work += replace(probes, calls=probes.calls / together)
    return work
