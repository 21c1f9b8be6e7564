"""An evaluation (linear and kNN probe of student and teacher): ours against the paper-style prober, whole and in parts.

    python benchmarks/probe.py [--encoder vgg11] [--train 5000] [--test 2000] [--rounds 3]

The whole is measured from the second evaluation of a run on: the teacher is constant, so ours has probed it before; the
paper-style prober embeds both networks through its DataLoader every time. Parts are of one network, the student. Floors
are the FLOPs of matrix products and convolutions, at the rate of a large matrix product measured beside them.
"""

from __future__ import annotations

import argparse
import copy
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lib import measure, paper_style
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rt_scale.data.beton import Beton
from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.data.prepare import Prepared
from rt_scale.data.subsets import nested_subset
from rt_scale.experiments.options import find_device
from rt_scale.models.networks import build_pair, to_device
from rt_scale.probes.evaluator import Prober
from rt_scale.probes.features import standardise
from rt_scale.probes.knn import knn_accuracy
from rt_scale.probes.linear import LinearProbes, Problem
from rt_scale.spec.run import RunSpec

SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product measures the device."""


class Bench:
    """The same images and networks for both sides.

    Args:
        spec: encoder and probes.
        data: its data set.
        train, test: images of each split.
        workers: of the paper-style DataLoader.
        device: of both sides.
    """

    def __init__(
        self, spec: RunSpec, data: Prepared, train: int, test: int, workers: int, device: torch.device
    ) -> None:
        self.spec, self.device, self.classes = spec, device, len(data.info.classes)
        info = data.info
        pair = build_pair(spec, info.channels, info.size)
        self.teacher, self.student = (to_device(copy.deepcopy(each.encoder), device, torch.float32) for each in pair)
        self.paper_style: dict[str, nn.Module] = {
            name: paper_style.in_textbook_order(each.encoder.to(device)) for name, each in pair._asdict().items()
        }
        chosen = [(split, nested_subset(split.labels, n, 0)) for split, n in ((data.train, train), (data.test, test))]
        resident = [
            ResidentLoader(split, batch_size=256, seed=0, device=device, subset=subset) for split, subset in chosen
        ]
        inputs = functools.partial(to_inputs, mean=info.mean, std=info.std, size=None, dtype=torch.float32)
        self.prober = Prober(spec.probe, *resident, inputs, classes=self.classes)

        def pictures(split: Beton, subset: Any) -> paper_style.PilImages:
            return paper_style.PilImages(split.gather(subset), split.labels[subset], info.mean, info.std)

        self.loaders = [paper_style.batches(pictures(*each), None, 256, workers) for each in chosen]
        image = torch.zeros(1, info.channels, info.size, info.size, device=device)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.student.eval()(image)
        self.image_flops = counter.get_total_flops()

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of ``work``, up to the device's last kernel."""
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Part(NamedTuple):
    """A part of the probing of one network.

    Attributes:
        name: of it.
        flops: its least arithmetic.
        ours: does it.
        theirs: does the same paper-style; None where that does not do it.
    """

    name: str
    flops: float
    ours: Callable[[], object]
    theirs: Callable[[], object] | None = None


def parts(bench: Bench) -> list[Part]:
    """Embedding, linear probes apart and together, nearest neighbours."""
    probe, classes = bench.spec.probe, bench.classes
    train, test, _ = bench.prober.embed_network(bench.student, 0)
    fitted, held = (paper_style._embed(bench.paper_style["student"], loader) for loader in bench.loaders)
    (samples, width), tested = train.x.shape, len(test.y)
    apart = LinearProbes(classes, epochs=probe.epochs, batch_size=probe.batch_size, lr=probe.lr)
    both = LinearProbes(classes, standardized=True, epochs=probe.epochs, batch_size=probe.batch_size, lr=probe.lr)
    raw, standardised = Problem(*train, 0), Problem(standardise(train.x, test.x)[0], train.y, 0)
    # Logits and the gradient of the weights, a multiplication and an addition each.
    linear, neighbours = 4.0 * probe.epochs * samples * width * classes, 2.0 * samples * tested * width
    return [
        Part(
            "embedding",
            float(bench.image_flops * (samples + tested)),
            lambda: bench.prober.embed_network(bench.student, 0),
            lambda: [paper_style._embed(bench.paper_style["student"], loader) for loader in bench.loaders],
        ),
        Part(
            "linear, raw",
            linear,
            lambda: apart.fit([raw]),
            lambda: paper_style._linear(fitted, held, classes, probe.epochs, probe.lr),
        ),
        Part("linear, standardised", linear, lambda: apart.fit([standardised])),
        Part("both in one batch", 2 * linear, lambda: both.fit([raw])),
        Part("both, of two networks", 4 * linear, lambda: both.fit([raw, raw])),
        Part(
            f"{probe.knn}-NN, raw",
            neighbours,
            lambda: knn_accuracy(*train, *test, k=probe.knn, classes=classes),
            lambda: paper_style._knn(fitted, held, classes, probe.knn),
        ),
    ]


def compare_parts(bench: Bench, rounds: int, rate: float) -> None:
    """Measure every part in turns with the others, and print them over their floors."""
    measured = parts(bench)
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(rounds + 1):
        for part in measured:
            for ours, work in ((True, part.ours), (False, part.theirs)):
                if work is not None:
                    found.setdefault((part.name, ours), []).append(bench.seconds(work))
    print(
        f"\n{'part of one network':<24} {'rt-scale, s (range)':>30} {'paper-style':>12} {'GFLOP':>9} {'over floor':>11}"
    )
    for part in measured:
        fast = measure.summarise(found[part.name, True][1:])
        slow = found.get((part.name, False))
        paper = f"{measure.summarise(slow[1:]).median:.3f}" if slow else ""
        spread = f"{fast.median:.3f} ({fast.low:.3f} to {fast.high:.3f})"
        over = fast.median * rate / part.flops
        print(f"{part.name:<24} {spread:>30} {paper:>12} {part.flops / 1e9:>9.2f} {over:>11.1f}")


def compare_whole(bench: Bench, rounds: int) -> None:
    """Measure whole evaluations in turns, and print both and the accuracies."""
    probe = bench.spec.probe
    values: dict[str, dict[str, float]] = {"ours": {}, "theirs": {}}
    teacher_seconds = bench.seconds(
        lambda: values["ours"].update(_named("teacher", bench.prober.probe_network(bench.teacher, 0)))
    )

    def ours() -> None:
        values["ours"] |= _named("student", bench.prober.probe_network(bench.student, 0))

    def theirs() -> None:
        recipe = {"classes": bench.classes, "k": probe.knn, "epochs": probe.epochs, "lr": probe.lr}
        values["theirs"] = paper_style.evaluate(bench.paper_style, *bench.loaders, **recipe)

    fast, slow = measure.alternate(lambda: bench.seconds(ours), lambda: bench.seconds(theirs), rounds)
    measure.print_comparison(fast, slow, "an evaluation")
    print(f"{'that of the teacher, once a run':<33} {teacher_seconds:8.3f} s")
    for name, value in sorted(values["ours"].items()):
        print(f"{name:<33} {values['theirs'][name]:7.2%} paper-style, {value:7.2%} rt-scale")
    plain = bench.prober.linear.plain_because
    steps = "plain, as on every CPU" if bench.device.type == "cpu" else f"plain: {plain}" if plain else "one CUDA graph"
    print(f"{'steps of the linear probe':<33} {steps}")


def _named(role: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{role}/{name}": value for name, value in values.items()}


def product_rate(bench: Bench) -> float:
    """FLOPs a second of a large matrix product in float32, the fastest of 5."""
    side = SIDE[bench.device.type]
    a = torch.randn(side, side, device=bench.device)
    return 2 * side**3 / min(bench.seconds(lambda: torch.mm(a, a)) for _ in range(5))


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
            "probe": {"standardized": False},  # which the paper-style prober does not do
        }
    )
    bench = Bench(spec, data, train, test, asked.workers, find_device(asked.device))
    rate = product_rate(bench)
    measure.print_header(
        f"An evaluation: linear and {spec.probe.knn}-nearest-neighbour probe of student and teacher, {asked.encoder}",
        {
            "device": f"{bench.device}, {rate / 1e9:,.0f} GFLOP/s in a float32 matrix product of side "
            f"{SIDE[bench.device.type]:,}",
            "data": f"{asked.data}, {train:,} training and {test:,} test images",
            "workers": f"{asked.workers} DataLoader workers on the paper-style side",
            "repetitions": f"{asked.rounds} of everything on each side, in turns, after 1 as warm-up",
        },
    )
    compare_whole(bench, asked.rounds)
    compare_parts(bench, asked.rounds, rate)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="name of a prepared data set")
    parser.add_argument("--data-dir", type=Path, help="where prepared data is; else RT_SCALE_DATA")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
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
