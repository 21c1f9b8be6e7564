"""Distillation of a random teacher into a student, probed along the way (paper, section 4)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rt_scale.data.inputs import to_inputs
from rt_scale.data.resident import ResidentLoader
from rt_scale.data.subsets import nested_subset
from rt_scale.experiments.check import Sets
from rt_scale.experiments.context import Context
from rt_scale.experiments.evaluation import Evaluation, build_probers
from rt_scale.models.pair import Pair, build_pair, to_device
from rt_scale.spec.duration import duration_steps
from rt_scale.spec.metric_names import is_constant
from rt_scale.spec.run import RunSpec
from rt_scale.training.checkpoint import load_training, save_training, save_weights
from rt_scale.training.distillation import Distillation, arithmetic, parameter_dtype
from rt_scale.training.loop import Progress, distance, train
from rt_scale.training.optim import UpdateRules, build_optimizer
from rt_scale.training.targets import CachedTargets, ComputedTargets, Targets

TEACHER = "teacher.safetensors"


class DistillRun:
    """One attempt at a spec of kind distill, from its start or from its newest checkpoint.

    Args:
        spec: the run.
        data: its prepared data sets, which fit it.
        context: where it runs and what it writes to.
    """

    def __init__(self, spec: RunSpec, data: Sets, context: Context) -> None:
        self.spec, self.context = spec, context
        info, device = data.main.info, context.execution.device
        dtype = parameter_dtype(spec.precision)
        pair = build_pair(spec, info.channels, spec.data.size or info.size)
        self.teacher = to_device(pair.teacher, device, dtype)
        self.student = to_device(pair.student, device, dtype)
        self.initial = [parameter.detach().clone() for parameter in self.student.parameters()]
        self.to_inputs: Callable[[torch.Tensor], torch.Tensor] = functools.partial(
            to_inputs, mean=info.mean, std=info.std, size=spec.data.size, dtype=dtype
        )
        subset = None
        if spec.data.samples is not None:
            subset = nested_subset(data.main.train.labels, spec.data.samples, spec.seeds.data)
        self.loader = ResidentLoader(
            data.main.train, batch_size=spec.train.batch_size, seed=spec.seeds.data, device=device, subset=subset
        )
        self.evaluation = Evaluation(
            spec,
            build_probers(spec, data, self.loader, self.to_inputs, dtype),
            Pair(self.teacher, self.student),
            self.initial,
            context.observer.stage,
        )
        self.optimizer = build_optimizer(spec.train.optimizer, self.student.parameters())
        self.progress = Progress()
        self.constant: dict[str, float] = {}
        every = spec.probe.every
        self.probe_steps = duration_steps(every, self.loader.steps) if every else self.total_steps

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.spec.train.epochs * self.loader.steps

    def run(self) -> dict[str, float]:
        """Train to the end; the last value of every metric."""
        if not self._resume():
            self._begin()
        targets = self._targets()
        self.context.observer.started(self.progress.step, self.total_steps)
        train(
            self.student,
            self.loader,
            Distillation(targets, self.to_inputs, self.spec.precision),
            self.optimizer,
            epochs=self.spec.train.epochs,
            progress=self.progress,
            before_update=self._update_rules(),
            hooks=[self],
        )
        return self.context.metrics.last()

    def _update_rules(self) -> UpdateRules:
        recipe = self.spec.train
        return UpdateRules(
            self.optimizer,
            recipe.optimizer,
            steps=self.total_steps,
            steps_per_epoch=self.loader.steps,
            frozen=list(self.student.projector.last.parameters()),
            frozen_steps=duration_steps(recipe.freeze_last, self.loader.steps) if recipe.freeze_last else 0,
        )

    def after_step(self, progress: Progress) -> None:
        """Show the step, and probe where it is due in the middle of an epoch (a Hook)."""
        self.context.observer.stepped(progress.step)
        if progress.step % self.loader.steps and progress.step % self.probe_steps == 0:
            self._probe_student()

    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Record the epoch, probe and checkpoint where it is due (a Hook)."""
        values = {f"train/{name}": value for name, value in metrics.items()}
        values["distance/from_init"] = float(distance(self.student, self.initial))
        values["distance/from_teacher"] = float(distance(self.student, list(self.teacher.parameters())))
        self.context.log(progress.step, progress.epoch, values)
        last = progress.epoch == self.spec.train.epochs
        due = last or progress.step % self.probe_steps == 0
        if due:
            self._probe_student()
        if due or self.context.checkpoint_due():
            self._checkpoint()

    def _resume(self) -> bool:
        def load(folder: Path) -> tuple[Progress, float]:
            return load_training(folder, self.student, self.optimizer)

        found = self.context.restore(load)
        if found is None:
            return False
        self.progress, self.context.elapsed_before = found
        known = self.context.metrics.last()
        self.constant = {name: value for name, value in known.items() if is_constant(name)}
        return True

    def _begin(self) -> None:
        """Probe what stays constant once, the student at its start, and keep the start as a checkpoint."""
        self.constant = self.evaluation.constant()
        self._probe_student()
        self._checkpoint()

    def _probe_student(self) -> None:
        progress = self.progress
        # The constant ones are repeated, not measured again: curves want a line to compare with.
        values = self.constant | self.evaluation.changing()
        self.context.log(progress.step, progress.step / self.loader.steps, values)
        self.context.observer.stage("training")

    def _checkpoint(self) -> None:
        def write(folder: Path) -> None:
            save_training(folder, self.student, self.optimizer, self.progress, self.context.elapsed)
            if self.progress.step == 0:
                save_weights(folder / TEACHER, self.teacher)

        self.context.checkpoint(self.progress.step, write)

    def _targets(self) -> Targets:
        if not self.context.execution.cache_teacher:
            return ComputedTargets(self.teacher)
        self.context.observer.stage("embedding the teacher's targets")
        with arithmetic(self.spec.precision, self.context.execution.device):
            return CachedTargets(self.teacher, self.loader.sequential(), self.loader.samples, self.to_inputs)


def cache_bytes(spec: RunSpec, samples: int) -> int:
    """Bytes that the cached bottleneck features of ``samples`` images take."""
    return samples * spec.projector.bottleneck * parameter_dtype(spec.precision).itemsize


def distill(spec: RunSpec, data: Sets, context: Context) -> dict[str, Any]:
    """Run ``spec`` to its end; what goes into its result beside the metrics."""
    attempt = DistillRun(spec, data, context)
    last = attempt.run()
    return {"last": last, "steps": attempt.progress.step, "epochs": attempt.progress.epoch}
