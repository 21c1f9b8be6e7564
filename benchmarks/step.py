"""A step of distillation: the product's own loop against the paper-style way (``paper_style.py``).

    python benchmarks/step.py [--encoder vgg11] [--out-dim 65536] [--steps 3] [--rounds 9]

Both train the same student from the same initialisation on the same batches, in turns. A round is
one epoch over (steps + 1) batches of which the first, where workers and allocator start, is not timed.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

import numpy as np
import torch
from lib import measure
from lib.paper_style import GivenOrder, PaperStyleDistillation, PilImages, StepMetrics, batches

from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import order
from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.data.prepare import Prepared
from rt_scale.data.subsets import nested_subset
from rt_scale.models.networks import build_pair, to_device
from rt_scale.spec.run import RunSpec
from rt_scale.training.distillation import CachedTargets, Distillation
from rt_scale.training.loop import Progress, train
from rt_scale.training.optim import build_optimizer

_EPOCHS = 100
"""Length of a run over which the building of the cache is spread (the paper's)."""


class Ours:
    """The product's path: resident images, cached targets, the one training loop (a Hook)."""

    def __init__(self, spec: RunSpec, data: Prepared, images: int) -> None:
        pair = build_pair(spec, data.info.channels, data.info.size)
        device = torch.device("cpu")
        teacher, self.student = (to_device(network, device, torch.float32) for network in pair)
        inputs = functools.partial(to_inputs, mean=data.info.mean, std=data.info.std, size=None, dtype=torch.float32)
        self.loader = ResidentLoader(
            data.train, batch_size=spec.train.batch_size, seed=0, device=device, subset=_chosen(data, images)
        )
        start = time.perf_counter()
        targets = CachedTargets(teacher, self.loader.sequential(), images, inputs)
        self.cache_seconds_an_image = (time.perf_counter() - start) / images
        self.objective = Distillation(targets, lambda images, step: (inputs(images),), spec.precision)
        self.optimizer = build_optimizer(spec.train.optimizer, self.student.parameters())
        self.progress = Progress()
        self.losses: list[float] = []

    def round(self) -> float:
        """Seconds a step of one more epoch, the reading of its metrics included."""
        train(
            self.student,
            self.loader,
            self.objective,
            self.optimizer,
            epochs=self.progress.epoch + 1,
            progress=self.progress,
            hooks=[self],
        )
        return (self.end - self.begin) / (self.loader.steps - 1)

    def after_step(self, progress: Progress) -> None:
        """Start the clock after the first step."""
        if progress.step % self.loader.steps == 1:
            self.begin = time.perf_counter()

    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Stop the clock."""
        self.end = time.perf_counter()
        self.losses.append(metrics["loss"])

    def stopped(self, progress: Progress) -> None:
        """Nobody stops it."""


class Theirs:
    """The paper-style way on the same batches."""

    def __init__(self, spec: RunSpec, data: Prepared, images: int, workers: int) -> None:
        pair = build_pair(spec, data.info.channels, data.info.size)
        self.distillation = PaperStyleDistillation(pair.teacher, pair.student, spec.train.optimizer.lr)
        positions = _chosen(data, images)
        pictures = PilImages(data.train.gather(positions), data.train.labels[positions], data.info.mean, data.info.std)
        self.order = GivenOrder()
        self.loader = batches(pictures, self.order, spec.train.batch_size, workers)
        self.images, self.epoch = images, 0
        self.losses: list[float] = []

    def round(self) -> float:
        """Seconds a step of one more epoch."""
        self.order.positions = order(self.images, 0, self.epoch).tolist()
        begin = 0.0
        read: list[StepMetrics] = []
        for inputs, _ in self.loader:
            read.append(self.distillation.step(inputs))
            begin = begin or time.perf_counter()
        self.epoch += 1
        self.losses.append(sum(metrics.loss for metrics in read) / len(read))
        return (time.perf_counter() - begin) / (len(read) - 1)


def _chosen(data: Prepared, images: int) -> np.ndarray:
    return nested_subset(data.train.labels, images, seed=0)


def main() -> None:
    """Measure and print."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    data = measure.open_data(asked.data, asked.data_dir)
    images = asked.batch_size * (asked.steps + 1)
    if images > data.train.samples:
        raise SystemExit(f"{asked.data} has {data.train.samples} images, too few for --steps {asked.steps}.")
    spec = RunSpec.model_validate(
        {
            "data": {"name": asked.data},
            "encoder": {"name": asked.encoder},
            "projector": {"out_dim": asked.out_dim},
            "train": {"batch_size": asked.batch_size},
        }
    )
    measure.print_header(
        f"A step of distillation: {asked.encoder}, m = {asked.out_dim:,}, batch {asked.batch_size}, float32",
        {
            "data": f"{asked.data}, {images:,} of {data.train.samples:,} images",
            "workers": f"{asked.workers} DataLoader workers on the paper-style side",
            "repetitions": f"{asked.rounds} rounds of {asked.steps} timed steps each, in turns; "
            "1 step a round and 1 round as warm-up",
        },
    )
    ours, theirs = Ours(spec, data, images), Theirs(spec, data, images, asked.workers)
    fast, slow = measure.alternate(ours.round, theirs.round, asked.rounds)
    _report(ours, theirs, fast, slow, asked.batch_size)


def _report(ours: Ours, theirs: Theirs, fast: list[float], slow: list[float], batch_size: int) -> None:
    ratio = measure.print_comparison(fast, slow, "a step")
    cache = ours.cache_seconds_an_image * batch_size
    spread, median = cache / _EPOCHS, measure.summarise(fast).median
    print(f"{'teacher cache, a batch':<33} {cache:8.3f} s  once a run: {spread:.4f} s a step of {_EPOCHS} epochs")
    print(f"{'ratio with the cache':<33} {ratio * median / (median + spread):8.2f}")
    print(f"{'mean loss, round 1':<33} {theirs.losses[0]:.6f} paper-style, {ours.losses[0]:.6f} rt-scale")
    print(f"{'mean loss, last round':<33} {theirs.losses[-1]:.6f} paper-style, {ours.losses[-1]:.6f} rt-scale")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="name of a prepared data set")
    parser.add_argument("--data-dir", type=Path, help="where prepared data is; else RT_SCALE_DATA")
    parser.add_argument("--encoder", default="vgg11")
    parser.add_argument("--out-dim", type=int, default=65536)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2, help="of the paper-style DataLoader")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
