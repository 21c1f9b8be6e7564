"""Where the time of a run goes: the product's own run, with a clock at the seams between its parts.

Nothing of the run is copied here: ``watched`` puts hooks on the objects and methods that it goes through anyway, at
most eight a step. Each instant belongs to one part, so parts add up to the whole.

On a GPU the clock is the device's: events in its stream, which record when the work before them is done, without the
host waiting. A part in which the device waits for the host is charged with that waiting. On a CPU it is a plain timer.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from rt_scale.data.loaders.base import Batch
from rt_scale.experiments.context import Context
from rt_scale.experiments.evaluation import Evaluation
from rt_scale.experiments.train import TrainingRun
from rt_scale.training.distributed import Group

START, LOADING, ENCODER, WIDE = "start", "loading", "encoder", "projector + wide output"
WHOLE = "encoder to wide output"
METRICS, OPTIMISER, CACHE = "gradient norm and means", "optimiser", "teacher cache"
PROBES, ONCE = "probes of the student", "probes of input and teacher, once"
LOGGING, CHECKPOINTS, REST = "logging", "checkpointing", "rest"
STEP = (ENCODER, WIDE, WHOLE, METRICS, OPTIMISER)
"""Parts of an optimiser step, beside the loading of its batch."""


class Timeline:
    """Seconds by part; ``now`` says which part the time from here on belongs to.

    Args:
        device: whose time is measured.
        clock: on a CPU; ``time.process_time`` counts CPU seconds, which others on the machine hardly disturb.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self.entered: Counter[str] = Counter()
        self.part = START

    def now(self, part: str) -> None:
        """Another part begins."""
        self.part = part
        self.entered[part] += 1
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
        else:
            self._marks.append((part, self._clock()))

    def inside(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose time is of ``part``; afterwards the part before it goes on."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            before = self.part
            self.now(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.now(before)

        return timed

    def seconds(self) -> dict[str, float]:
        """Time of every part so far, up to the last mark; waits for the device."""
        if self._on_gpu:
            torch.cuda.synchronize()
        total: Counter[str] = Counter()
        for (part, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            total[part] += begin.elapsed_time(end) / 1000 if self._on_gpu else end - begin
        return dict(total)

    def forget(self) -> None:
        """Start again, in the part that is going on."""
        del self._marks[:]
        self.entered.clear()
        self.now(self.part)


@contextmanager
def watched(timeline: Timeline) -> Iterator[list[TrainingRun]]:
    """Runs inside are timed; yields a list of the attempts at a run that were made, newest last."""
    attempts: list[TrainingRun] = []
    built, objective, summed = TrainingRun.__init__, TrainingRun._objective, Group.sum_gradients

    def build(self: TrainingRun, *args: Any, **kwargs: Any) -> None:
        built(self, *args, **kwargs)
        attempts.append(self)
        _watch_attempt(timeline, self)

    def make_objective(self: TrainingRun) -> Any:
        made = timeline.inside(CACHE, objective)(self)
        made.views = timeline.inside(LOADING, made.views)
        timeline.now(REST)
        return made

    def after_backward(self: Group, *args: Any) -> None:
        timeline.now(METRICS)
        summed(self, *args)

    with ExitStack() as patches:
        replace = functools.partial(patch.object)
        for owner, name, new in (
            (TrainingRun, "__init__", build),
            (TrainingRun, "_objective", make_objective),
            (Group, "sum_gradients", after_backward),
            (Evaluation, "constant", timeline.inside(ONCE, Evaluation.constant)),
            (Evaluation, "changing", timeline.inside(PROBES, Evaluation.changing)),
            (Context, "log", timeline.inside(LOGGING, Context.log)),
            (Context, "checkpoint", timeline.inside(CHECKPOINTS, Context.checkpoint)),
        ):
            patches.enter_context(replace(owner, name, new))
        timeline.now(START)
        yield attempts
        timeline.now(REST)


def _watch_attempt(timeline: Timeline, run: TrainingRun) -> None:
    epoch = run.loader.epoch
    # The kernels of a compiled or graphed network are not divided by modules.
    network = WIDE if run.context.execution.accelerate == "none" else WHOLE

    def timed_epoch(number: int, start: int = 0) -> Iterator[Batch]:
        batches = epoch(number, start)
        timeline.now(LOADING)
        while (batch := next(batches, None)) is not None:
            timeline.now(network)  # of the teacher, whose logits come first; views are loading again
            yield batch
            timeline.now(LOADING)
        timeline.now(REST)

    run.loader.epoch = timed_epoch  # type: ignore[method-assign]
    run.optimizer.register_step_pre_hook(lambda *_: timeline.now(OPTIMISER))
    run.optimizer.register_step_post_hook(lambda *_: timeline.now(REST))
    if network is WIDE:
        _watch_encoder(timeline, run.student.encoder)


def _watch_encoder(timeline: Timeline, encoder: torch.nn.Module) -> None:
    def enter(*_: Any) -> None:
        if encoder.training:
            timeline.now(ENCODER)

    def leave(_: Any, inputs: Any, embedding: Tensor) -> None:
        if encoder.training:
            timeline.now(WIDE)
            # The backward pass reaches the encoder when the embedding's gradient is there.
            embedding.register_hook(lambda gradient: timeline.now(ENCODER))

    encoder.register_forward_pre_hook(enter)
    encoder.register_forward_hook(leave)
