"""The kinds that train a network: distill, the paper's method (section 4), and supervise, on labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rt_scale.data.prepared import KnownData, NoiseSet, noise_set
from rt_scale.experiments.base import Cost, Experiment, Needs, Opener, Outcome, Sets
from rt_scale.experiments.check import (
    cache_bytes,
    fits,
    fits_probing,
    fits_start,
    fits_state,
    image_bytes,
    training_samples,
)
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.training import TrainingSpec

if TYPE_CHECKING:
    from rt_scale.experiments.context import Context


class Training(Experiment[TrainingSpec]):
    """A training of a student, probed along the way."""

    spec = TrainingSpec

    def open(self, spec: TrainingSpec, opener: Opener) -> Sets:
        """The set that is trained on, which may be drawn, and those of ``probe.also``."""
        data = spec.data
        if data.name == GAUSSIAN:
            drawn = noise_set(data.name, data.samples or 1, data.size or 1, data.channels or 3, data.sigma or 1.0)
        return Sets(
            drawn if data.name == GAUSSIAN else opener(data.name), {name: opener(name) for name in spec.probe.also}
        )

    def validate(self, spec: TrainingSpec, data: Sets | None) -> None:
        """Refuse a network, schedules, probes or start weights that do not fit the images."""
        assert data is not None
        fits(spec, data.main)
        for other in data.also.values():
            fits_probing(spec, data.main, other)
        for start in spec.starts:
            before = data.starts[start.run.name].main
            fits_start(spec, data.main, start.run, before)
            if start.take == "state":
                fits_state(spec, data.main, start.run, before)

    def check_workers(self, spec: TrainingSpec, data: Sets | None, workers: int) -> None:
        """Refuse more workers than images in a batch or in a split."""
        assert data is not None
        if spec.probe.curvature is not None:
            raise InputError(
                f"{workers} workers were asked for, but the curvature of a loss is measured by one. Leave workers at "
                "1, or leave out probe.curvature."
            )
        counts = {"train.batch_size": spec.train.batch_size, "data.samples": training_samples(spec, data.main)}
        if not isinstance(data.main, NoiseSet):
            counts[f"the number of test images of '{spec.data.name}'"] = len(data.main.test.labels)
        for name, other in data.also.items():
            counts[f"the number of images of '{name}'"] = min(len(other.train.labels), len(other.test.labels))
        for name, count in counts.items():
            if count < workers:
                raise InputError(
                    f"{workers} workers were asked for, but {name} is {count}, and every worker needs an image of it. "
                    f"Give at most {count} workers."
                )

    def needs(self, spec: TrainingSpec, data: Sets | None) -> Needs:
        """Memory for images and for a constant teacher's features."""
        assert data is not None
        # A graph repeats what a plugin's Python code did once, which need not be what it would do at every step.
        whole = training_samples(spec, data.main) >= spec.train.batch_size and spec.encoder.plugin is None
        return Needs(image_bytes(spec, data.main), cache_bytes(spec, data.main), whole)

    def cost(self, spec: TrainingSpec, known: KnownData) -> Cost:
        """Counted by torch on meta tensors, but for a user's encoder, objective or probe."""
        from rt_scale.experiments.flops import count_run, meta_batch, run_length

        info = known.main(spec)
        assert info is not None, "asked for before it was known"
        length = run_length(spec, info.train)
        if plugin := min(spec.plugins.keys() - {spec.data.plugin}, default=""):
            return Cost(length, unknown=f"a plan does not run the plugin {plugin}; its first finished run tells")
        also = {name: known.infos[name] for name in spec.probe.also}
        return Cost(length, lambda: count_run(spec, info, also), lambda: meta_batch(spec, info))

    def load(self) -> None:
        """Import the networks, the loaders and the training loop."""
        import rt_scale.experiments.train  # noqa: F401

    def run(self, spec: TrainingSpec, context: Context) -> Outcome:
        """Train from the start or the newest checkpoint."""
        from rt_scale.experiments.dependencies import start_weights
        from rt_scale.experiments.train import TrainingRun

        return TrainingRun(spec, context, start_weights(spec, context.options.store, context.data)).train()
