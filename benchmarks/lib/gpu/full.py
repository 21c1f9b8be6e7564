"""A full run against the paper-style way, and where its time goes: whole epochs of both, extrapolated to 100.

Ours is the product's own run (``profile_run.py``), once a precision. The paper-style side (``paper_style.py``) trains
and evaluates in torch's default arithmetic (tf32 in convolutions, float32 in products), each image through PIL and a
DataLoader at every epoch and for every embedding. Both probe student and teacher, linear and 20-NN, at every epoch.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lib.gpu.bench import Bench, answered, forget_peak, peak_bytes, wait
from lib.paper_style import GivenOrder, PaperStyleDistillation, PilImages, batches, evaluate
from lib.timeline import PROBES
from profile_run import profile, warm_up

from rt_scale.data.beton import Beton
from rt_scale.data.loaders.base import order
from rt_scale.data.subsets import nested_subset
from rt_scale.experiments.options import Silent
from rt_scale.models.networks import build_pair

EPOCHS = 100
"""Of the run that is extrapolated to (paper, appendix A)."""
RESERVED = 200.0
"""Seconds that are left to the other questions."""
RATIOS = {"full run": "ratio", "epoch": "ratio of an epoch", "evaluation": "ratio of an evaluation"}
"""Of paper-style's time over ours, by the time."""


@dataclass
class Epochs(Silent):
    """Notes when each evaluation was through: their distances are whole epochs, everything included."""

    begin: float = field(default_factory=time.perf_counter)
    ends: list[float] = field(default_factory=list)

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """The numbers are on the host, so the device is through with them."""
        if any(name.startswith("probe/student/") for name in values):
            self.ends.append(time.perf_counter())

    @property
    def before(self) -> float:
        """Seconds until training started: networks, data, and the probes of input, teacher and first student."""
        return self.ends[0] - self.begin

    @property
    def seconds(self) -> list[float]:
        """Of each epoch."""
        return [end - begin for begin, end in zip(self.ends, self.ends[1:], strict=False)]


def full_run(bench: Bench) -> dict[str, Any]:
    """Both sides, their ratio by precision, and our parts over their floors."""
    theirs = answered(_theirs, bench)
    ours = {precision: answered(_ours, bench, precision) for precision in bench.precisions}
    if bench.device.type == "cuda":
        # Compiling takes a compiler of C and minutes: without either, the rest stands.
        for precision, way in itertools.product(("tf32", "bf16"), ("none", "compile")):
            if bench.left > RESERVED:
                ours[f"{precision}, {way}"] = answered(_ours, bench, precision, way)
    for found in ours.values():
        for name, ratio in RATIOS.items():
            if name in theirs.keys() & found.keys():
                found[ratio] = theirs[name] / found[name]
    how = f"seconds; {EPOCHS} epochs are extrapolated from {theirs['n']} of paper-style and {bench.epochs} of ours"
    return {"how": how, "paper-style": theirs, "rt-scale": ours}


def _ours(bench: Bench, precision: str, accelerate: str = "auto") -> dict[str, Any]:
    forget_peak(bench.device)
    spec = bench.spec({"precision": precision, "train.epochs": bench.epochs})
    if accelerate != "compile":  # else all but the compiling, which is counted, was done before
        warm_up(spec, bench.settings())
    stamps = Epochs()
    found = profile(spec, bench.data, bench.settings(observer=stamps, accelerate=accelerate))
    first, *rest = stamps.seconds
    epoch = statistics.median(rest or [first])
    return {
        # The first epoch holds the teacher's cache and what is compiled.
        "full run": stamps.before + first + (EPOCHS - 1) * epoch,
        "epoch": epoch,
        "epochs": stamps.seconds,
        "before training": stamps.before,
        "evaluation": found.seconds[PROBES] / found.evaluations,
        "peak bytes": peak_bytes(bench.device),
        "parts": found.rows(),
        "rates": found.rates._asdict(),
    }


def _theirs(bench: Bench) -> dict[str, Any]:
    """One whole epoch and one evaluation, after some steps as warm-up."""
    forget_peak(bench.device)
    _default_arithmetic()
    spec, data = bench.spec(), bench.data
    begin = wait(bench.device)
    teacher, student = (each.to(bench.device) for each in build_pair(spec, data.info.channels, data.info.size))
    side = PaperStyleDistillation(teacher, student, float(spec.train.optimizer.lr))
    chosen = nested_subset(data.train.labels, bench.samples, 0)
    positions = GivenOrder()
    train = _pictures(bench, data.train, chosen)
    loader = batches(train, positions, bench.batch, bench.workers)
    before = wait(bench.device) - begin

    def epoch(images: int) -> float:
        positions.positions = order(bench.samples, 0, 0)[:images].tolist()
        start = wait(bench.device)
        for inputs, _ in loader:
            side.step(inputs)
        return wait(bench.device) - start

    epoch(min(4 * bench.batch, bench.samples))
    training = epoch(bench.samples)
    start = wait(bench.device)
    evaluate(
        {"teacher": teacher.encoder, "student": student.encoder},
        batches(train, None, 256, bench.workers),
        batches(_pictures(bench, data.test, np.arange(data.test.samples)), None, 256, bench.workers),
        classes=len(data.info.classes),
        k=spec.probe.knn,
        epochs=spec.probe.epochs,
        lr=spec.probe.lr,
    )
    evaluation = wait(bench.device) - start
    full = before + EPOCHS * training + (EPOCHS + 1) * evaluation
    return {
        "full run": full, "epoch": training + evaluation, "training": training, "evaluation": evaluation, "n": 1,
        "workers": bench.workers, "peak bytes": peak_bytes(bench.device),
    }  # fmt: skip


def _pictures(bench: Bench, split: Beton, chosen: np.ndarray) -> PilImages:
    return PilImages(split.gather(chosen), split.labels[chosen], bench.data.info.mean, bench.data.info.std)


def _default_arithmetic() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = True
