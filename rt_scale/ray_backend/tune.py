"""Ray Tune over a queue of runs. Ray schedules; the run directories are the truth.

A run with one worker executes directly in a function trainable; one with several starts a Ray Train inside its
trial, which itself holds next to nothing. The process of a trial is reused for the next run, so that importing torch
is paid once a slot. Nothing of Ray's own state is read back, and Tune restarts nothing: the queue does, and a run
that is started again goes on from its directory.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.search import Searcher

from rt_scale.ray_backend.cluster import Cluster
from rt_scale.ray_backend.control import ControlActor
from rt_scale.ray_backend.explore import Exploration
from rt_scale.ray_backend.trial import Place, run_packed_trial, run_trial, trial_config
from rt_scale.scheduler.job import Job, JobOutcome, JobState
from rt_scale.scheduler.queue import Queue
from rt_scale.system.signals import NOTICE

if TYPE_CHECKING:
    from rt_scale.scheduler.job import View

PULSE = 0.5
"""Seconds between two looks at the news."""


def run_queue(
    queue: Queue,
    place: Place,
    cluster: Cluster,
    view: View,
    exploration: Exploration,
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Execute what the queue gives, until it is finished.

    What became of a run stands in its directory afterwards, or in ``queue.failed``; the failure of one leaves the
    others alone.

    Args:
        queue: the runs.
        place: where they are executed and kept.
        cluster: the Ray that this process is connected to.
        view: is told what runs report.
        exploration: ends runs early and adds some, where sweeps say so.
        stopping: whether to stop: runs that are under way write a checkpoint, and this call returns.
    """
    scratch = Path(tempfile.mkdtemp(prefix="rt-scale-tune-"))
    try:
        with ControlActor() as control:
            pulse = _Pulse(control, queue, view, stopping)
            follower = _Follower(queue, pulse, exploration)
            exploration.tell = control.end
            known = queue.batching.known
            handout = _Handout(follower, lambda tasks: trial_config(tasks, known(tasks[0]), place, cluster))
            tune.Tuner(
                tune.with_resources(_trial, _resources),
                tune_config=tune.TuneConfig(
                    reuse_actors=True, search_alg=handout, num_samples=-1, scheduler=exploration.scheduler()
                ),
                run_config=tune.RunConfig(
                    storage_path=str(scratch), verbose=0, callbacks=[follower], stop=_AllStopped(follower),
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            ).fit()  # fmt: skip
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _resources(config: Mapping[str, Any]) -> Any:
    # Asked once for the function itself, too, before there is a trial.
    return tune.PlacementGroupFactory([config["run"]["bundle"] if "run" in config else {"CPU": 1}])


def _trial(config: Mapping[str, Any]) -> None:
    given = config["run"]
    tune.report(run_packed_trial(given, tune.report) if "specs" in given else run_trial(given))


class _Pulse:
    """What is done now and then: the news are shown, and the wish to stop is passed on."""

    def __init__(self, control: ControlActor, queue: Queue, view: View, stopping: Callable[[], bool]) -> None:
        self._control, self._queue, self._view, self.stopping = control, queue, view, stopping
        self._last = -PULSE
        self._told = False

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._last < PULSE:
            return
        self._last = now
        if self.stopping() and not self._told:
            self._told = True
            self._control.stop("the sweep was asked to stop")
            self._view.said(NOTICE)
        for name, report in self._control.news().items():
            if name in self._queue.live:
                self._queue.reported(name, report)
                shown = {**report, "warning": " ".join(report["warnings"])}
                self._view.running(self._queue.live[name].label, shown)
        self._view.tick()


class _Follower(tune.Callback):  # type: ignore[misc]
    """Tells the queue what becomes of trials."""

    def __init__(self, queue: Queue, pulse: _Pulse, exploration: Exploration) -> None:
        self.queue, self.pulse, self.exploration = queue, pulse, exploration
        self.given: dict[str, dict[str, Job]] = {}
        self.running = False

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that we never ask for; a terminal cannot be pickled.
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Tune is at work."""
        self.running = any(trial.status == "RUNNING" for trial in trials)
        self.pulse()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A trial said how its run, or some of its pack, ended, or what a rule is to judge."""
        tasks = self.given.get(trial.trial_id, {})
        if (packing := result.get("packing")) and tasks:
            self.queue.batching.learn(next(iter(tasks.values())), packing)
        for name, how in result.get("runs", {}).items():
            self._ended(tasks, name, JobOutcome(JobState(how["state"]), how["why"], how["values"]))
        if result["state"] not in ("running", "packed"):
            for name in list(tasks):
                self._ended(tasks, name, JobOutcome(JobState(result["state"]), result["why"], result["values"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial's process died."""
        tasks = self.given.get(trial.trial_id, {})
        for name in list(tasks):
            self._ended(tasks, name, JobOutcome(JobState.DIED, "its process died"))

    def _ended(self, tasks: dict[str, Job], name: str, how: JobOutcome) -> None:
        task = tasks.pop(name, None)
        if task is not None:
            self.queue.ended(name, how)
            self.exploration.ended(task, how)


class _Handout(Searcher):  # type: ignore[misc]
    """Gives Tune the runs of the queue, one or one pack at a time; what Tune takes for a search."""

    def __init__(self, follower: _Follower, config: Callable[[Sequence[Job]], dict[str, Any]]) -> None:
        super().__init__()
        self._follower, self._config = follower, config

    def suggest(self, trial_id: str) -> Any:
        """The next run; None where there is none yet."""
        self._follower.pulse()
        queue = self._follower.queue
        self._follower.exploration.refill(queue)
        if queue.finished or self._follower.pulse.stopping():
            return Searcher.FINISHED
        tasks = queue.take()
        if not tasks:
            return None
        self._follower.given[trial_id] = {task.spec.name: task for task in tasks}
        return {"run": self._config(tasks)}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **_: Any) -> bool:
        """There is nothing to search by."""
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The follower knows more."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store knows all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the store knows all."""


class _AllStopped(tune.Stopper):  # type: ignore[misc]
    """Ends Tune where it was asked to stop and no run is under way any more; what waits for room is forgotten."""

    def __init__(self, follower: _Follower) -> None:
        self._follower = follower

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is ended from here."""
        return False

    def stop_all(self) -> bool:
        """Asked after every step."""
        return self._follower.pulse.stopping() and not self._follower.running
