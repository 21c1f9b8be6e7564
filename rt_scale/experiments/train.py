"""One attempt at a run that trains a student, probed along the way (paper, section 4)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from rt_scale.data.loaders.choose import training_loader, training_subset
from rt_scale.experiments.base import Outcome
from rt_scale.experiments.context import Context
from rt_scale.experiments.dependencies import MASK, START, TEACHER, StartWeights, read_end, round_mask
from rt_scale.experiments.evaluation import Evaluation, build_layer_probe, build_probers
from rt_scale.experiments.objectives import (
    CleanLoss,
    build_objective,
    build_sharpenings,
    build_targets,
    build_views,
    clean_inputs,
)
from rt_scale.experiments.own import reproducible
from rt_scale.models.networks import Pair, build_others, build_pair, to_device
from rt_scale.probes.curvature import curvature
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.metrics import is_constant, probe_group
from rt_scale.spec.run import stream
from rt_scale.spec.schedule import duration_steps
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.results import Best
from rt_scale.training.accelerate import Accelerated, accelerated
from rt_scale.training.checkpoint import Spent, load_training, read_weights, save_training, save_weights
from rt_scale.training.distillation import Distillation, Supervision, Targets
from rt_scale.training.distributed import with_global_statistics
from rt_scale.training.loop import Gradients, Objective, Progress, distance, train
from rt_scale.training.optim import UpdateRules, build_optimizer
from rt_scale.training.precision import parameter_dtype, set_precision
from rt_scale.training.pruning import Kept, Mask, read_mask, save_mask, shares
from rt_scale.training.teacher import Following

STILL = (
    "The gradient of the whole first epoch is exactly 0: the student's output equals its teacher's bit for bit, so it "
    "learns nothing. Without batch norm alpha = 0 does that, and at precision bf16 any small alpha "
    "(benchmarks/fidelity.py); set student.alpha to 1e-4 or more, or precision to float32."
)


class TrainingRun:
    """One attempt at a training, from its start or its newest checkpoint.

    ``weights`` are those of the runs that teacher and student start from.
    """

    def __init__(self, spec: TrainingSpec, context: Context, weights: StartWeights) -> None:
        assert context.data is not None
        data = context.data
        self.spec, self.context, self.data = spec, context, data.main
        set_precision(spec.precision)
        execution, info = context.execution, data.main.info
        self.group = group = context.group
        dtype = parameter_dtype(spec.precision)
        self.subset = training_subset(spec, data.main)
        images = info.channels, spec.data.size or info.size
        self.teacher, self.student, *self.others = (
            to_device(network, context.device, dtype, channels_last=execution.channels_last)
            for network in (*build_pair(spec, *images, weights), *build_others(spec, *images))
        )
        kept = context.options.resident
        self.loader = training_loader(
            spec, data.main, execution.loader, context.device, self.subset,
            dtype=dtype, rank=group.rank, world=group.world, resident=kept,
        )  # fmt: skip
        stand_ins = self.loader.samples % self.loader.batch_size in range(1, group.world)
        self.teacher, self.student = (
            with_global_statistics(network, group, stand_ins=stand_ins) for network in (self.teacher, self.student)
        )
        self.initial = [parameter.detach().clone() for parameter in self.student.parameters()]
        steps = {"steps": self.total_steps, "steps_per_epoch": self.loader.steps}
        self.following = Following(spec.teacher, self.teacher, self.student, **steps)
        self.sharpenings = build_sharpenings(spec, **steps, group=group)
        inputs = clean_inputs(spec, info, execution.channels_last)
        probers = build_probers(spec, data, self.loader, inputs, group, kept, context.stop)
        layers = build_layer_probe(spec, data, self.loader, inputs, group, kept, context.stop)
        self.pair = pair = Pair(self.teacher, self.student)
        observer = context.observer
        self.evaluation = Evaluation(spec, probers, pair, self.initial, observer.stage, context.check_stop, layers)
        self.trained = accelerated(self.student, self.loader.batch_size, execution.accelerate)
        self.optimizer = build_optimizer(spec.train.optimizer, self.student.parameters())
        self.mask: Mask | None = None
        self.progress = Progress()
        self.constant: dict[str, float] = {}
        every = spec.probe.every
        self.probe_steps = duration_steps(every, self.loader.steps) if every else self.total_steps

    @property
    def total_steps(self) -> int:
        """The optimiser steps that schedules are made for."""
        return self.spec.train.length(self.loader.steps)

    @property
    def end(self) -> int:
        """The optimiser step after which the run ends."""
        return self.spec.train.end(self.loader.steps)

    def train(self) -> Outcome:
        """Train to the end."""
        if not self._resume():
            self._begin()
        self.group.check_same([*self.student.parameters(), *self.teacher.parameters()])
        if self.progress.evaluate_first:
            self._catch_up()
        objective = None  # its targets are a pass over all images, which without steps nobody asks for
        if self.progress.step < self.end:
            objective = reproducible(self.spec, self._objective())
        self.context.observer.started(self.progress.step, self.end)
        if objective is not None:
            self._steps(objective)
        metrics = self.context.metrics
        return Outcome(metrics.last(), self.progress.step, self.progress.epoch, self._best(metrics))

    def _steps(self, objective: Objective[Any]) -> None:
        train(
            self.trained,
            self.loader,
            objective,
            self.optimizer,
            epochs=self.spec.train.epochs,
            progress=self.progress,
            end=self.end,
            before_update=self._update_rules(),
            hooks=[self],
            group=self.group,
            stop=self.context.stop,
            gradients=self._gradients(),
        )

    def _best(self, metrics: MetricsTable) -> dict[str, Best]:
        """The student's best accuracies on every probed data set, and its own as a classifier."""
        found: dict[str, Best] = {}
        for data in (None, *self.spec.probe.also):
            found |= metrics.best(f"{probe_group(data)}/student/")
        return found | metrics.best("test/accuracy")

    def _objective(self) -> Distillation | Supervision:
        spec, info, execution = self.spec, self.data.info, self.context.execution
        views = build_views(spec, info, execution.channels_last, self.loader)

        def targets() -> list[Targets]:
            return [build_targets(spec, info, each, self.loader, self.context) for each in (self.teacher, *self.others)]

        return build_objective(spec, self.data, self.subset, views, targets, self.sharpenings, self.context.device)

    def _gradients(self) -> Gradients:
        given = self.context.options.gradients
        return given if self.mask is None else self.mask.gradients(given)

    def _prune(self, kept: Kept) -> None:
        self.mask = Mask(self.student, self.optimizer, kept)
        named = zip(self.student.named_parameters(), self.initial, strict=True)
        for initial, mask in ((each, kept[name]) for (name, _), each in named if name in kept):
            initial.mul_(mask.to(initial.device))

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
        """Update the teacher, show the step, and evaluate if an evaluation is due within an epoch (a Hook)."""
        self.following.after_step(progress)
        self.context.observer.stepped(progress.step)
        if progress.step % self.loader.steps and progress.step % self.probe_steps == 0 and progress.step < self.end:
            self._evaluate()

    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Record the epoch, evaluate and checkpoint if due, and update the teacher (a Hook)."""
        values = {f"train/{name}": value for name, value in metrics.items()}
        values["distance/from_init"] = float(distance(self.student, self.initial))
        if self.spec.teacher.width is None:
            values["distance/from_teacher"] = float(distance(self.student, list(self.teacher.parameters())))
        self.context.log(progress.step, progress.step / self.loader.steps, values)
        if progress.epoch == 1 and metrics["grad_norm"] == 0:
            self.context.observer.warned(STILL)
        self._end_epoch()

    def _end_epoch(self) -> None:
        """Evaluate and checkpoint if due, and update the teacher."""
        step = self.progress.step
        last = step == self.end
        due = last or step % self.probe_steps == 0
        if due:
            self._evaluate()
        # After the evaluation, which is with the epoch's teacher; the checkpoint holds the teacher of the next step.
        if step % self.loader.steps == 0:
            self.following.after_epoch(self.progress, {})
        if last or self.context.checkpoint_due(evaluated=due):
            self._checkpoint(step)

    def stopped(self, progress: Progress) -> None:
        """Write a checkpoint, unless there is one of this step (a Hook); it repeats an interrupted evaluation later."""
        if progress.step not in self.context.run_dir.checkpoints.steps():
            self.context.observer.stage("writing a checkpoint, as it is asked to stop")
            self._checkpoint(progress.step)

    def _load(self, folder: Path) -> tuple[Progress, Spent | None]:
        """Take everything that training goes on from out of a checkpoint."""
        # Read before anything is changed: a damaged file must not change the teacher.
        teacher = read_weights(folder / TEACHER) if self.spec.teacher.moves else None
        found = load_training(folder, self.student, self.optimizer, self.sharpenings)
        if teacher is not None:
            self.teacher.load_state_dict(teacher)
        return found

    def _resume(self) -> bool:
        def load(folder: Path) -> tuple[Progress, Spent | None]:
            pruned = self.spec.pruned is not None
            kept = read_mask(folder / MASK, dict(self.student.named_parameters())) if pruned else None
            found = self._load(folder)
            if kept is not None:
                self._prune(kept)
            return found

        found = self.context.restore(load)
        if found is None:
            return False
        self.progress, spent = found
        self.context.spent_before = spent or self.context.spent_before
        known = self.context.metrics.last()
        frozen = not self.spec.teacher.moves
        self.constant = {name: value for name, value in known.items() if is_constant(name, frozen_teacher=frozen)}
        return True

    def _begin(self) -> None:
        """Go on from another run, and prune, if so; probe what is constant and the student; write a checkpoint."""
        spec, store = self.spec, self.context.options.store
        if (before := spec.goes_on_from) is not None:
            self.progress, _ = read_end(before, "state", store, self._load)
        if spec.pruned is not None:
            kept, step = round_mask(spec.pruned, self.student, store), self.progress.step
            self._prune(kept)
            self.context.log(step, step / self.loader.steps, shares(kept))
        self.constant = self.evaluation.constant()
        self._evaluate()
        self._checkpoint(START)

    def _catch_up(self) -> None:
        """Repeat the evaluation that a stop interrupted, and what follows it."""
        if self.progress.step % self.loader.steps and self.progress.step < self.end:
            self._evaluate()
        else:
            self._end_epoch()

    def _evaluate(self) -> None:
        progress = self.progress
        progress.evaluate_first = True
        # Constant values are logged again, not measured again: each curve has a line to compare with.
        values = self.constant | self.evaluation.changing() | self._curvature()
        progress.evaluate_first = False
        self._report_slower()
        self.context.log(progress.step, progress.step / self.loader.steps, values)
        self.context.observer.stage("training")

    @functools.cached_property
    def _clean_loss(self) -> CleanLoss:
        inputs = clean_inputs(self.spec, self.data.info, self.context.execution.channels_last)
        return CleanLoss(
            self.spec, self.data, self.subset, self.pair, self.sharpenings, self.loader, inputs,
            self.context.options.resident,
        )  # fmt: skip

    def _curvature(self) -> dict[str, float]:
        """The curvature of the loss, if the spec asks for it."""
        asked = self.spec.probe.curvature
        if asked is None:
            return {}
        self.context.observer.stage("the curvature of the loss")
        losses = self._clean_loss.parts(max(0, self.progress.step - 1))
        seed = stream("curvature", self.spec.seeds.probe)
        return curvature(asked, losses, list(self.student.parameters()), seed, self.context.check_stop)

    def _report_slower(self) -> None:
        """Report the parts of the run that could not be compiled or graphed."""
        if isinstance(self.trained, Accelerated) and self.trained.slower_because is not None:
            self.context.slower("student's pass", self.trained.slower_because)
        for data, prober in self.evaluation.probers.items():
            if (reason := prober.linear.plain_because) is not None:
                self.context.slower("linear probe" if data is None else f"linear probe on {data}", reason)

    def _checkpoint(self, step: int) -> None:
        def write(folder: Path) -> None:
            save_training(folder, self.student, self.optimizer, self.progress, self.sharpenings)
            if self.mask is not None:
                save_mask(folder / MASK, self.mask.kept)
            if step == START or self.spec.teacher.moves:
                save_weights(folder / TEACHER, self.teacher)

        self.context.checkpoint(step, write)
