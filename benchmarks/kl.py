"""What a KL that is right when small costs: a step of distillation with it, and with KL as cross entropy less entropy.

    python benchmarks/kl.py [--before COMMIT] [--outputs 1024 4096 65536] [--rounds 9]

``before`` are the losses of a commit whose KL was that difference, read from this checkout's history. Timed in turns,
in seconds of the processor on one thread, which others on the machine disturb less than the clock's:

    whole   loss, metrics and the gradient of logits [B, m]: losses.distances
    tiles   the same from features and weights, with their gradients: losses.chunked
    step    forward pass of a student (--encoder), tiles, backward pass; the teacher's features are kept

and how wrong KL is in both, beside float64, for a student whose logits differ from the teacher's by 1.5e-6.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from lib import measure
from torch import Tensor
from torch.nn import functional

from rt_scale.losses import chunked, distances
from rt_scale.models.networks import build_pair
from rt_scale.models.projector import Outputs
from rt_scale.spec.experiments.training import training
from rt_scale.spec.run import RunSpec
from rt_scale.system.memory import keep_freed_memory

FILES = ("__init__", "distances", "chunked")
Losses = tuple[ModuleType, ModuleType]
"""The modules distances and chunked."""


def losses_of(commit: str, folder: Path) -> Losses:
    """The losses of ``commit``, imported beside the present ones."""
    package = folder / "losses_before"
    package.mkdir()
    for name in FILES:
        text = subprocess.check_output(["git", "show", f"{commit}:rt_scale/losses/{name}.py"], text=True)
        (package / f"{name}.py").write_text(text.replace("rt_scale.losses", "losses_before"))
    sys.path.insert(0, str(folder))
    return importlib.import_module("losses_before.distances"), importlib.import_module("losses_before.chunked")


class Step:
    """Inputs of a step with m outputs, and what each part of it is."""

    def __init__(self, asked: argparse.Namespace, outputs: int) -> None:
        generator = torch.Generator().manual_seed(outputs)
        encoder = {"name": asked.encoder, "width": asked.width}
        document = {"data": {"name": "cifar10"}, "encoder": encoder, "projector": {"out_dim": outputs}}
        spec = training(RunSpec.model_validate(document))
        teacher, self.student = build_pair(spec, 3, 32)
        self.images = torch.randn(asked.batch_size, 3, 32, 32, generator=generator)
        with torch.no_grad():
            taught = teacher.projector.outputs(teacher.features(self.images), teacher.projector.directions())
            self.teacher = Outputs(*(each.clone() if isinstance(each, Tensor) else each for each in taught))
            self.teacher_logits = self.teacher.logits()
            noise = torch.randn(self.teacher_logits.shape, generator=generator)
        self.logits = (self.teacher_logits + 0.03 * noise).requires_grad_()
        self.near = self.teacher_logits + 1.5e-6 * noise
        features, weight, *rest = self.student.projector.outputs(self.student.features(self.images))
        self.factors = Outputs(features.detach().requires_grad_(), weight.detach().clone().requires_grad_(), *rest)

    def parts(self, losses: Losses) -> dict[str, Callable[[], Tensor]]:
        """Losses to differentiate."""
        whole, tiles = losses[0].distance, losses[1].wide_distance

        def step() -> Tensor:
            outputs = self.student.projector.outputs(self.student.features(self.images))
            loss: Tensor = tiles("cross_entropy", outputs, self.teacher).loss
            return loss

        return {
            "whole": lambda: whole("cross_entropy", self.logits, self.teacher_logits).loss,
            "tiles": lambda: tiles("cross_entropy", self.factors, self.teacher).loss,
            "step": step,
        }

    def error(self, losses: Losses) -> float:
        """KL of the near logits less that in float64, relative to it."""
        log_t, log_s = (functional.log_softmax(each.double(), 1) for each in (self.teacher_logits, self.near))
        exact = (log_t.exp() * (log_t - log_s)).sum(1).mean()
        return float(losses[0].distance("cross_entropy", self.near, self.teacher_logits).kl.double() / exact - 1)


def seconds(loss: Callable[[], Tensor], leaves: list[Tensor]) -> float:
    """Of the processor, for a loss and its gradients."""
    for leaf in leaves:
        leaf.grad = None
    start = time.process_time()
    loss().backward()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    asked = _arguments()
    torch.set_num_threads(1)
    head = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    measure.print_header(
        f"KL that is right when small: {asked.encoder} x {asked.width:g}, batch {asked.batch_size}",
        {
            "commits": f"before {asked.before}, after {head}",
            "repetitions": f"{asked.rounds} of each in turns, 1 as warm-up; median (lowest), ms of the processor",
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        before: Losses = losses_of(asked.before, Path(folder))
    after: Losses = (distances, chunked)
    print("| m | part | before | after | after / before |\n| ---: | --- | ---: | ---: | ---: |")
    for outputs in asked.outputs:
        step = Step(asked, outputs)
        leaves = [step.logits, *step.factors[:2], *step.student.parameters()]
        for part in ("whole", "tiles", "step"):
            forms = [functools.partial(seconds, step.parts(losses)[part], leaves) for losses in (before, after)]
            with keep_freed_memory():
                times = measure.alternate(*forms, asked.rounds)
            found = [measure.summarise(each) for each in times]
            cells = [f"{1e3 * each.median:.2f} ({1e3 * each.low:.2f})" for each in found]
            ratio = found[1].low / found[0].low
            print(f"| {outputs:,} | {part} | {' | '.join(cells)} | {ratio:.3f} |", flush=True)
        errors = [f"{100 * step.error(losses):.3g} %" for losses in (before, after)]
        print(f"| {outputs:,} | error of a KL of 1.1e-12 | {' | '.join(errors)} | |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="de7d0b4")
    parser.add_argument("--outputs", type=int, nargs="+", default=[1024, 4096, 65536])
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    main()
