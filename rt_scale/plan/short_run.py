"""A short run of a kind, timed as it goes: what counting FLOPs misses where runs take seconds."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import ValidationError

from rt_scale.data.catalogue import BUNDLED
from rt_scale.data.prepared import load
from rt_scale.experiments.options import Options, Silent
from rt_scale.experiments.runner import run
from rt_scale.plan.history import shape
from rt_scale.plan.rates import Clock
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.errors import RtScaleError
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store

EPOCHS, EVERY, PROBINGS = 3, 2, 3
"""Of a short run: it is probed at its start, after its second epoch and at its end, so that an epoch ends without."""
STARTS = 3
"""Starts of a process, one after the other, that a sweep takes beside its runs: the command's, Ray's, then those of the
runs (assumed; two sweeps on two busy cores of an AMD EPYC took 3.5 and 4.2, with the report at their end)."""
IMPORTS = "import ray, torch, rt_scale.experiments.runner, rt_scale.ray_backend.trial"


@dataclass(frozen=True)
class ShortRunTimes:
    """Seconds of a run by part, where nothing else is computed on the machine.

    Attributes:
        fixed: once a run: networks, what is constant, the first probing, checkpoint, files, result.
        step: every optimiser step but the first of an epoch.
        turn: from the last step of an epoch to the end of the first one of the next.
        probing: what a probing and the checkpoint after it add to that.
        total: of the short run itself.
    """

    fixed: float
    step: float
    turn: float
    probing: float
    total: float

    def seconds(self, steps: int, steps_per_epoch: int, probings: int) -> float:
        """Of a run of its kind of that many steps and probings, those at start and end included."""
        epochs = steps / steps_per_epoch
        return self.fixed + epochs * ((steps_per_epoch - 1) * self.step + self.turn) + (probings - 1) * self.probing


@dataclass
class _Watch(Silent):
    """Notes how long each step took, and what lay before it."""

    clock: Clock = field(default_factory=Clock)
    passed: list[float] = field(default_factory=list)

    def started(self, step: int, steps: int) -> None:
        self.clock.look()

    def stepped(self, step: int) -> None:
        self.passed.append(self.clock.look())


def short_run(spec: RunSpec) -> RunSpec | None:
    """A run of the shape of ``spec`` as short as can be; None where its shape makes none on its own."""
    values = json.loads(shape(spec))
    values.setdefault("train", {})["epochs"] = EPOCHS
    values.setdefault("probe", {})["every"] = f"{EVERY}ep"
    try:
        return RunSpec.model_validate(values)
    except ValidationError:
        return None


def time_short_run(spec: RunSpec, data_dir: Path, threads: int) -> ShortRunTimes | None:
    """Execute a run as short as can be of the shape of ``spec`` on the CPU, in a temporary store, and time it.

    Args:
        spec: the run.
        data_dir: where prepared data sets are; bundled ones that are not are prepared in a temporary place.
        threads: CPU threads to compute with.

    Returns:
        Its seconds; None where its data is not here, or it fails.
    """
    short = short_run(spec)
    names = {spec.data.name, *spec.probe.also} - {GAUSSIAN}
    here = all(load(name, data_dir) is not None for name in names)
    if short is None or not (here or names <= BUNDLED):  # a run would fetch what is not here
        return None
    with tempfile.TemporaryDirectory(prefix="rt-scale-plan-") as folder, _as_it_was():
        data_dir = data_dir if here else Path(folder)
        watch = _Watch()
        settings = Options(
            store=Store(Path(folder) / "store"), data_dir=data_dir, device="cpu", threads=threads, observer=watch,
        )  # fmt: skip
        try:
            run(short, settings)
        except RtScaleError:
            return None
        watch.clock.look()
    return _by_part(watch.passed, watch.clock.total)


def start_seconds() -> float:
    """Seconds that a sweep takes beside its runs: ``STARTS`` times the start of a process, which is timed."""
    before, wall = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return STARTS * min(cpu, time.perf_counter() - wall)


def _by_part(passed: list[float], total: float) -> ShortRunTimes:
    """From the seconds up to each step's end, since the one before."""
    each = len(passed) // EPOCHS
    inside = [seconds for place, seconds in enumerate(passed) if place % each and place > 1]
    step = statistics.median(inside) if inside else 0.0
    turn = passed[each]
    probing = max(0.0, passed[EVERY * each] - turn)
    fixed = total - EPOCHS * ((each - 1) * step + turn) - (PROBINGS - 1) * probing
    return ShortRunTimes(max(0.0, fixed), step, turn, probing, total)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Puts back what a run sets in its process."""
    threads = torch.get_num_threads()
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed
