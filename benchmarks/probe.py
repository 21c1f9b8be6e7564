"""An evaluation (linear and kNN probe of student and teacher): ours against the paper-style prober.

    python benchmarks/probe.py [--encoder vgg11] [--train 5000] [--test 2000] [--rounds 3]

Measured from the second evaluation of a run on: the teacher is constant, so ours has probed it
before; the paper-style prober embeds both networks through its DataLoader every time.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

import measure
import torch
from paper_style import PilImages, batches, evaluate

from rt_scale.data.beton import Beton
from rt_scale.data.inputs import to_inputs
from rt_scale.data.prepare import Prepared
from rt_scale.data.resident import ResidentLoader
from rt_scale.data.subsets import nested_subset
from rt_scale.models.pair import build_pair, to_device
from rt_scale.probing.prober import Prober
from rt_scale.spec.run import RunSpec


class Ours:
    """The product's prober on resident images; the teacher's numbers are kept after the first evaluation."""

    def __init__(self, spec: RunSpec, data: Prepared, train: int, test: int) -> None:
        pair = build_pair(spec, data.info.channels, data.info.size)
        device = torch.device("cpu")
        teacher, student = (to_device(network, device, torch.float32) for network in pair)
        self.student = student.encoder
        inputs = functools.partial(to_inputs, mean=data.info.mean, std=data.info.std, size=None, dtype=torch.float32)

        def resident(split: Beton, samples: int) -> ResidentLoader:
            return ResidentLoader(
                split, batch_size=256, seed=0, device=device, subset=nested_subset(split.labels, samples, 0)
            )

        self.prober = Prober(
            spec.probe,
            resident(data.train, train),
            resident(data.test, test),
            inputs,
            classes=len(data.info.classes),
        )
        start = time.perf_counter()
        self.kept = {f"teacher/{name}": v for name, v in self.prober.probe_network(teacher.encoder, 0).items()}
        self.teacher_seconds = time.perf_counter() - start
        self.values: dict[str, float] = {}

    def round(self) -> float:
        """Seconds of one evaluation."""
        start = time.perf_counter()
        student = self.prober.probe_network(self.student, 0)
        self.values = self.kept | {f"student/{name}": value for name, value in student.items()}
        return time.perf_counter() - start


class Theirs:
    """The paper-style prober on the same images and networks."""

    def __init__(self, spec: RunSpec, data: Prepared, train: int, test: int, workers: int) -> None:
        pair = build_pair(spec, data.info.channels, data.info.size)
        self.encoders = {"teacher": pair.teacher.encoder, "student": pair.student.encoder}

        def pictures(split: Beton, samples: int) -> PilImages:
            chosen = nested_subset(split.labels, samples, 0)
            return PilImages(split.gather(chosen), split.labels[chosen], data.info.mean, data.info.std)

        self.evaluate = functools.partial(
            evaluate,
            self.encoders,
            batches(pictures(data.train, train), None, 256, workers),
            batches(pictures(data.test, test), None, 256, workers),
            classes=len(data.info.classes),
            k=spec.probe.knn,
            epochs=spec.probe.epochs,
            lr=spec.probe.lr,
        )
        self.values: dict[str, float] = {}

    def round(self) -> float:
        """Seconds of one evaluation."""
        start = time.perf_counter()
        self.values = self.evaluate()
        return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)  # the paper-style classifier draws from the global generator
    data = measure.open_data(asked.data, asked.data_dir)
    train, test = min(asked.train, data.train.samples), min(asked.test, data.test.samples)
    spec = RunSpec.model_validate(
        {
            "data": {"name": asked.data},
            "encoder": {"name": asked.encoder, "width": asked.width},
            "projector": {"hidden": [], "bottleneck": 1, "out_dim": 1},  # not probed
            "probe": {"standardized": False},
        }
    )
    measure.print_header(
        f"An evaluation: linear and {spec.probe.knn}-nearest-neighbour probe of student and teacher, {asked.encoder}",
        {
            "data": f"{asked.data}, {train:,} training and {test:,} test images",
            "workers": f"{asked.workers} DataLoader workers on the paper-style side",
            "repetitions": f"{asked.rounds} evaluations each, in turns, after 1 as warm-up",
        },
    )
    ours, theirs = Ours(spec, data, train, test), Theirs(spec, data, train, test, asked.workers)
    fast, slow = measure.alternate(ours.round, theirs.round, asked.rounds)
    measure.print_comparison(fast, slow, "an evaluation")
    print(f"{'that of the teacher, once a run':<33} {ours.teacher_seconds:8.3f} s")
    for name, value in sorted(ours.values.items()):
        print(f"{name:<33} {theirs.values[name]:7.2%} paper-style, {value:7.2%} rt-scale")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="name of a prepared data set")
    parser.add_argument("--data-dir", type=Path, help="where prepared data is; else RT_SCALE_DATA")
    parser.add_argument("--encoder", default="vgg11")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of the encoder's channels")
    parser.add_argument("--train", type=int, default=5000, help="training images")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="of the paper-style DataLoader")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
