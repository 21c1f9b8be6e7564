"""A run that another one starts from: computed first, or waited for where somebody else computes it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from rt_scale.experiments.options import Observer, Options
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import heeding

PATIENCE = 1.0
"""Seconds between two looks at a run that somebody else computes."""


class _Before:
    """An observer of the run that comes first: what it does is shown, its numbers belong to another run."""

    def __init__(self, observer: Observer, name: str) -> None:
        self.observer, self.name = observer, name

    def stage(self, text: str) -> None:
        """Show the stage."""
        self.observer.stage(f"first {self.name}: {text}")

    def decided(self, text: str) -> None:
        """Its own affair."""

    def started(self, step: int, steps: int) -> None:
        """Remember how long it is, and say that it is under way."""
        self.steps = steps
        self.observer.decided(f"first {self.name}, which this run starts from ({steps:,} steps)")
        self.stage("training")

    def stepped(self, step: int) -> None:
        """Every tenth is told."""
        if step * 10 // self.steps != (step - 1) * 10 // self.steps:
            self.stage(f"training, {100 * step // self.steps} %")

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Kept in its own directory alone."""

    def warned(self, text: str) -> None:
        """Pass the warning on."""
        self.observer.warned(f"{self.name}: {text}")


def compute_first(
    spec: RunSpec, settings: Options, run: Callable[[RunSpec, Options], dict[str, Any]]
) -> dict[str, Any]:
    """The result of ``spec``, which another run starts from.

    Args:
        spec: the run that comes first.
        settings: of the run that needs it.
        run: computes a run.

    Raises:
        InputError: where it cannot be run here.
        RunError: where it failed, naming it.
        Stopped: where this run was asked to stop.
    """
    watched = dataclasses.replace(settings, observer=_Before(settings.observer, spec.name))
    run_dir = settings.store.run(spec)
    while True:
        run_dir.refresh()
        held = run_dir.status().state == "running"
        try:
            return run(spec, watched)
        except InputError:
            run_dir.refresh()
            # Held before or after: who held it may have let go of it between the refusal and this look.
            if not held and run_dir.status().state != "running":
                raise
            settings.observer.stage(f"waiting for {spec.name}, which another process computes")
            heeding(settings.stop)()
            time.sleep(PATIENCE)
        except RunError as error:
            raise RunError(f"The run {spec.name}, to start from, has no result: {error}") from error
