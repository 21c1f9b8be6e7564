"""Whether it pays on this CPU that torch compiles a student's pass: seconds a step, and what compiling takes.

    python benchmarks/compiled.py [--encoders vgg11 resnet18 convnet_32_2] [--batch-size 256] [--rounds 5]

Forward and backward pass of encoder and projector, eager and compiled in turns. Beside the time on the wall stand CPU
seconds, which company on the machine disturbs less; with one thread hardly at all.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import measure
import torch
from torch import Tensor

from rt_scale.models.pair import Network, build_pair, to_device
from rt_scale.spec.run import RunSpec
from rt_scale.training.compiled import CompiledNetwork


def main() -> None:
    """Measure and print."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    measure.print_header(
        f"A student's pass, eager and compiled: m = {asked.out_dim:,}, batch {asked.batch_size}, float32",
        {"repetitions": f"{asked.rounds} each, in turns, after 1 of each as warm-up, in which it is compiled; medians"},
    )
    for encoder in asked.encoders:
        _compare(encoder, asked)


def _compare(encoder: str, asked: argparse.Namespace) -> None:
    spec = RunSpec.model_validate(
        {"data": {"name": "cifar10"}, "encoder": {"name": encoder}, "projector": {"out_dim": asked.out_dim}}
    )
    network = to_device(build_pair(spec, channels=3, size=32).student, "cpu", torch.float32)
    images = torch.randn(asked.batch_size, 3, 32, 32).to(memory_format=torch.channels_last)
    eager, compiled = (_pass(model, images) for model in (network, CompiledNetwork(network, asked.batch_size)))
    plain, first = eager(), compiled()
    pairs = [(eager(), compiled()) for _ in range(asked.rounds)]
    for name, column in (("on the wall", 0), ("CPU seconds", 1)):
        slow, fast = (statistics.median(pair[side][column] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(pair[0][column] / pair[1][column] for pair in pairs)
        print(f"{encoder:<14} {name}: eager {slow:.3f}, compiled {fast:.3f}, ratio {ratio:.2f}")
    first_pass = f"{plain[0]:.1f} s eager; compiled {first[0]:.1f} s, {first[1]:.1f} CPU s"
    print(f"{encoder:<14} first pass: {first_pass}", flush=True)


def _pass(model: Network, images: Tensor) -> Callable[[], tuple[float, float]]:
    """A pass; seconds on the wall, and CPU seconds with those of the compiler's processes."""

    def cpu_seconds() -> float:
        spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(each.ru_utime + each.ru_stime for each in spent)

    def once() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), cpu_seconds()
        torch.autograd.backward(model.of_views((images,)).square().mean())
        for parameter in model.parameters():
            parameter.grad = None
        return time.perf_counter() - wall, cpu_seconds() - cpu

    return once


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=["vgg11", "resnet18", "convnet_32_2"])
    parser.add_argument("--out-dim", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
