"""The wide output: cross entropy and its gradients from bottleneck features, at m = 2^8 ... 2^16.

    python benchmarks/wide.py [--device cpu] [--outputs 256 4096 65536] [--rounds 5]

From student and teacher features [B, k] and last layers [m, k] to loss, KL, both entropies and the gradients of the
student's features and last layer, its weight norm included. Three forms:

    plain   softmax, log_softmax and autograd, as the formulas are written
    whole   rt_scale.losses.distances.distance on logits [B, m], which several views and mse still go through
    tiles   rt_scale.losses.chunked, which the product takes

All forms of an m are timed in turns. Memory is what a step takes at most beyond its inputs: of a process of its own
on the CPU, of torch's allocator on a GPU. The arithmetic floor is 4 matrix products of 2 B m k operations at the
rate that the device has on a product of 2048 x 2048 matrices.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lib import measure
from torch import Tensor
from torch.nn import functional

from rt_scale.experiments.options import find_device
from rt_scale.losses.chunked import wide_distance
from rt_scale.losses.distances import Distance, distance
from rt_scale.models.projector import Outputs, unit_rows
from rt_scale.system.memory import keep_freed_memory
from rt_scale.training.precision import set_precision

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


class Step:
    """Random features and last layers on a device, and what is made of them.

    Args:
        asked: batch size, k, device, precision.
        outputs: m.
    """

    def __init__(self, asked: argparse.Namespace, outputs: int) -> None:
        generator = torch.Generator().manual_seed(outputs)
        shapes = [(asked.batch_size, asked.bottleneck)] * 2 + [(outputs, asked.bottleneck)] * 2
        self.device = find_device(asked.device)
        features, targets, weight, directions = (
            functional.normalize(torch.randn(shape, generator=generator), dim=1).to(self.device) for shape in shapes
        )
        self.features, self.weight = features.requires_grad_(), weight.mul_(0.3).requires_grad_()
        self.targets, self.directions, self.product = targets, directions, DTYPES[asked.precision]

    def plain(self) -> Distance:
        """As written."""
        ours, theirs = self._logits(functional.normalize(self.weight, dim=1))
        target, log_target = torch.softmax(theirs, dim=1), torch.log_softmax(theirs, dim=1)
        prediction, log_prediction = torch.softmax(ours, dim=1), torch.log_softmax(ours, dim=1)
        cross = -(target * log_prediction).sum(dim=1).mean()
        entropy = -(target * log_target).sum(dim=1).mean()
        own = -(prediction * log_prediction).detach().sum(dim=1).mean()
        return Distance(cross, (cross - entropy).detach(), entropy, own)

    def whole(self) -> Distance:
        """By logits of the whole batch."""
        return distance("cross_entropy", *self._logits(unit_rows(self.weight)))

    def tiles(self) -> Distance:
        """A tile of columns at a time."""
        student, teacher = Outputs(self.features, self.weight, unit=True), Outputs(self.targets, self.directions)
        return wide_distance("cross_entropy", student, teacher, product=self.product)

    def _logits(self, weight: Tensor) -> tuple[Tensor, ...]:
        factors = ((self.features, weight), (self.targets, self.directions))
        return tuple(functional.linear(x.to(self.product), w.to(self.product)).float() for x, w in factors)

    def seconds(self, form: str) -> float:
        """Of one step, its gradients included."""
        self.features.grad = self.weight.grad = None
        self._wait()
        start = time.perf_counter()
        {"plain": self.plain, "whole": self.whole, "tiles": self.tiles}[form]().loss.backward()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak_bytes(asked: argparse.Namespace, outputs: int, form: str) -> int:
    """The most that one step takes beyond its inputs, gradients included."""
    step = Step(asked, outputs)
    if step.device.type == "cuda":
        step.seconds(form)
        torch.cuda.reset_peak_memory_stats(step.device)
        before = torch.cuda.memory_allocated(step.device)
        step.seconds(form)
        return int(torch.cuda.max_memory_allocated(step.device) - before)
    before = _resident("VmRSS:")
    step.seconds(form)
    return _resident("VmHWM:") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def rate(device: torch.device, product: torch.dtype) -> float:
    """Operations a second of a product of 2048 x 2048 matrices, the best of ten."""
    a, found = torch.ones(2048, 2048, device=device, dtype=product), []
    for _ in range(10):
        start = time.perf_counter()
        (a @ a).sum().item()
        found.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(found)


def in_turns(step: Step, forms: list[str], rounds: int) -> dict[str, measure.Summary]:
    """Every form in every round, whatever else the machine does; the first round warms up and does not count."""
    found: dict[str, list[float]] = {form: [] for form in forms}
    with keep_freed_memory():
        for _ in range(rounds + 1):
            for form in forms:
                found[form].append(step.seconds(form))
    return {form: measure.summarise(seconds[1:]) for form, seconds in found.items()}


def main() -> None:
    """Measure and print."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    set_precision(asked.precision)
    device = find_device(asked.device)
    forms = ["plain", "whole", "tiles"]
    fastest = rate(device, DTYPES[asked.precision])
    measure.print_header(
        f"The wide output: batch {asked.batch_size}, k = {asked.bottleneck}, {asked.precision}",
        {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "rate": f"{fastest / 1e9:,.0f} GFLOP/s in a product of 2048 x 2048 matrices",
            "repetitions": f"{asked.rounds} of each form in turns, 1 as warm-up; median (lowest to highest)",
        },
    )
    for outputs in asked.outputs:
        times = in_turns(Step(asked, outputs), forms, asked.rounds)
        floor = 8 * asked.batch_size * outputs * asked.bottleneck / fastest
        print(
            f"m = {outputs:,}: floor {1e3 * floor:.2f} ms; a [B, m] tensor {4e-6 * asked.batch_size * outputs:.1f} MB"
        )
        for form, time_of in times.items():
            print(_line(form, time_of, floor, _peak(device, asked, outputs, form)), flush=True)


def _line(form: str, time_of: measure.Summary, floor: float, peak: int) -> str:
    low, median, high = (f"{1e3 * each:.2f}" for each in (time_of.low, time_of.median, time_of.high))
    return (
        f"  {form:<8}{median:>10} ms ({low} to {high}), {time_of.low / floor:.2f} floors at best, {peak / 1e6:,.1f} MB"
    )


def _peak(device: torch.device, asked: argparse.Namespace, outputs: int, form: str) -> int:
    """Of a GPU, whose peak can be forgotten, in this process: another one takes seconds to begin."""
    if device.type == "cuda":
        return peak_bytes(asked, outputs, form)
    return _alone(peak_bytes, asked, outputs, form)


def _alone(work: Callable[..., int], *given: object) -> int:
    """What ``work`` returns in a process of its own, whose high-water mark nobody else raised."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=DTYPES, default="float32")
    parser.add_argument("--outputs", type=int, nargs="+", default=[1 << power for power in range(8, 17)])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--bottleneck", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
