"""Ray Tune over a queue of runs: Ray schedules, and run directories, never Ray's own state, say what is finished.

A run with several workers starts Ray Train inside its trial. Tune restarts nothing: the queue does.
"""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from rt_scale.ray_backend.cluster import Cluster
from rt_scale.ray_backend.control import ControlActor
from rt_scale.ray_backend.explore import Exploration
from rt_scale.ray_backend.losses import address_of, lost_node, node_of
from rt_scale.ray_backend.trial import JudgedBy, TrialConfig, TrialReport, run_batch, run_in_process, run_trial
from rt_scale.scheduler.job import FINAL, Job, JobOutcome, JobState, Where
from rt_scale.scheduler.queue import Queue
from rt_scale.spec.errors import RtScaleError
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.lease import Process, note_lost
from rt_scale.store.results import BatchSize
from rt_scale.system.signals import NOTICE

if TYPE_CHECKING:
    from rt_scale.ray_backend.usage import Meter
    from rt_scale.scheduler.deadline import Deadline
    from rt_scale.scheduler.job import View

NEWS_S = 0.5
"""Seconds between two polls of the control actor."""


def run_queue(
    queue: Queue,
    where: Where,
    cluster: Cluster,
    control: ControlActor,
    view: View,
    exploration: Exploration,
    meter: Meter,
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Execute the jobs of the queue until it is finished.

    How a run came out is in its directory afterwards, or in ``queue.failed``; a failed run does not affect others.
    Once ``stopping`` returns True, running runs write a checkpoint, and this call returns.
    """
    driver = _Driver(
        queue, control, view, exploration, stopping, functools.partial(_record_preemption, where), where.deadline,
        meter, gpus=lambda: math.inf if cluster.autoscaling else cluster.capacity()["gpu"],
    )  # fmt: skip
    handout = _Handout(driver, lambda jobs: _tune_config(jobs, queue.known(jobs[0]), where, cluster, driver.lost))
    while not (handout.finished or stopping()):
        if handout.resting:  # all that is left is delayed, or executed by other drivers
            driver.look()
            queue.wake()
            time.sleep(NEWS_S)
        else:
            _fit(handout, driver)
            driver.settle_all()


def _fit(handout: _Handout, driver: _Driver) -> None:
    """Let Tune execute jobs until none is live, and none could start."""
    with tempfile.TemporaryDirectory(prefix="rt-scale-tune-", ignore_cleanup_errors=True) as scratch:
        tune.Tuner(
            tune.with_resources(_trial, _resources),
            tune_config=tune.TuneConfig(
                reuse_actors=True, search_alg=_Handouts(handout), num_samples=-1
            ),
            run_config=tune.RunConfig(
                storage_path=scratch, verbose=0, callbacks=[driver], stop=_AllStopped(driver),
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        ).fit()  # fmt: skip


def _tune_config(
    jobs: Sequence[Job],
    measured_size: BatchSize | None,
    where: Where,
    cluster: Cluster,
    lost: Mapping[str, Process],
) -> dict[str, Any]:
    """The Tune config of a trial that executes these jobs: one, or several of one shape and launch section.

    ``lost``: as of :class:`_Driver`.
    """
    first = jobs[0]
    config = TrialConfig(
        specs=tuple(job.spec for job in jobs),
        launch=first.launch,
        store=where.store.place,
        data_dir=where.data_dir.absolute(),
        device=where.device,
        local=cluster.local,
        rule=_rule(first.sweep),
        measured_size=measured_size,
        lost=tuple(lost[job.name] for job in jobs if job.name in lost),
    )
    return {"run": config.model_dump_json(), "resources": cluster.trial_resources(first.launch)}


def _record_preemption(where: Where, job: Job, why: str) -> None:
    if job.sweep is not None:
        with suppress(RtScaleError):  # it is only shown
            where.store.sweep(job.sweep.name).add_preemption(job.name, why)


def _rule(sweep: SweepSpec | None) -> JudgedBy | None:
    if sweep is None or sweep.explore is None or sweep.explore.stop is None:
        return None
    return JudgedBy(sweep=sweep.name, metric=sweep.explore.metric)


def _resources(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    # Tune also calls this once with an empty config, before there is a trial.
    return tune.PlacementGroupFactory([config.get("resources", {"CPU": 1})])


def _trial(given: Mapping[str, Any]) -> None:
    config = TrialConfig.model_validate_json(given["run"])

    def report(trial_report: TrialReport) -> None:
        tune.report({"report": trial_report.model_dump_json()})

    if config.launch.workers > 1:
        from rt_scale.ray_backend.train_workers import run_with_workers  # imports Ray Train, which others do not need

        run_trial(config, report, run_with_workers)
    elif config.launch.pack == 1:
        run_trial(config, report, run_in_process)
    else:
        run_batch(config, report)


class _Driver(tune.Callback):  # type: ignore[misc]
    """Reports outcomes to the queue, shows the reports of runs, and forwards stop requests.

    ``jobs`` holds the unfinished jobs of trials: trial's id -> name of the run -> job; ``lost`` the processes that
    executed runs and were lost, by the run's name. The last outcome of a trial reaches the queue when its process is
    free: the next run then takes that process, and asks for no other.

    ``held`` are the trials that keep GPUs which failed, with their number: trial's id -> GPUs.
    """

    def __init__(
        self,
        queue: Queue,
        control: ControlActor,
        view: View,
        exploration: Exploration,
        stopping: Callable[[], bool],
        preempted: Callable[[Job, str], None],
        deadline: Deadline | None = None,
        meter: Meter | None = None,
        gpus: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.queue, self.exploration, self.stopping, self._preempted = queue, exploration, stopping, preempted
        self._control, self._view, self._deadline, self._meter = control, view, deadline, meter
        self._looked, self._told = -NEWS_S, False
        self.jobs: dict[str, dict[str, Job]] = {}
        self.lost: dict[str, Process] = {}
        self._last: dict[str, tuple[Job, JobOutcome]] = {}
        self._nodes: dict[str, str] = {}
        self._gpus, self._none_left = gpus, ""
        self.held: dict[str, float] = {}
        self.running = False

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that we never use; a terminal cannot be pickled.
        return {}

    def look(self) -> None:
        """Every ``NEWS_S`` seconds, show new reports and forward a stop request."""
        now = time.monotonic()
        if now - self._looked < NEWS_S:
            return
        self._looked = now
        if self.stopping() and not self._told:
            self._told = True
            self._control.stop("the sweep was asked to stop")
            over = self._deadline is not None and self._deadline.passed
            self._view.said(f"the deadline ({self._deadline}) has passed: checkpoints are written" if over else NOTICE)
        for name, report in self._control.news().items():
            if name in self.queue.live:
                self.queue.reported(name, report)
                self._view.running(self.queue.live[name].label, report)
                if self._meter is not None:
                    self._meter.reported(self.queue.live[name], report)
        if self._meter is not None:
            self._meter.look()
        self._view.tick()

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Called by Tune in every step of its loop."""
        self.running = any(trial.status == "RUNNING" and trial.trial_id not in self.held for trial in trials)
        self.look()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial's process is there."""
        self._nodes[trial.trial_id] = node_of(trial.temporary_state.ray_actor)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A trial reported outcomes of runs, or a measurement for a rule."""
        report = TrialReport.model_validate_json(result["report"])
        jobs = self.jobs.get(trial.trial_id, {})
        if report.measured_size and jobs:
            self.queue.learn(next(iter(jobs.values())), report.measured_size)
        if report.measured:
            self.exploration.hear(report.measured)
        for name, outcome in report.outcomes.items():
            self._ended(trial, name, outcome)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial's process is free."""
        if trial.trial_id in self._last:
            self._settle(*self._last.pop(trial.trial_id))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial's process died, by itself or with its node."""
        self.on_trial_complete(iteration, trials, trial)
        self.held.pop(trial.trial_id, None)
        jobs, node = list(self.jobs.get(trial.trial_id, {})), self._nodes.pop(trial.trial_id, "")
        if not jobs:
            return
        lost = lost_node(node)
        outcome = JobOutcome(JobState.PREEMPTED, lost) if lost else JobOutcome(JobState.DIED, "its process died")
        for name in jobs:
            self._settle(self.jobs[trial.trial_id].pop(name), outcome)

    def _ended(self, trial: Any, name: str, outcome: JobOutcome) -> None:
        jobs = self.jobs.get(trial.trial_id, {})
        job = jobs.pop(name, None)
        if job is not None and outcome.state is JobState.DEVICE_LOST:
            self._put_aside(trial.trial_id, job, outcome)
        elif job is not None and jobs:
            self._settle(job, outcome)
        elif job is not None:
            self._last[trial.trial_id] = job, outcome

    def _put_aside(self, trial: str, job: Job, outcome: JobOutcome) -> None:
        """The trial keeps its GPUs, one of which failed; without any left, its runs are given up."""
        node = address_of(self._nodes.get(trial, ""))
        if trial not in self.held:
            self.held[trial] = job.launch.gpus
            self._view.said(
                f"a GPU of node {node} failed and is put aside until this sweep ends ({outcome.why}); look there at "
                "'nvidia-smi' and for 'Xid' in 'dmesg', then reset the GPU or restart the node"
            )
        self._settle(job, replace(outcome, why=f"a GPU of its node {node} failed"))
        if self._gpus() - sum(self.held.values()) < job.launch.gpus:
            self._none_left = f"no GPU is left: {len(self.held)} failed, the last on node {node} ({outcome.why})."
            self.queue.give_up(job.launch, self._none_left)

    @property
    def may_end(self) -> bool:
        """Whether nothing is left for Tune to do beside trials that keep GPUs which failed."""
        return bool(self.held) and (bool(self._none_left) or (self.queue.resting and not self.queue.live))

    def settle_all(self) -> None:
        """Hand on what trials reported whose ends Tune did not tell, since it was stopped."""
        while self._last:
            self._settle(*self._last.popitem()[1])
        self.held.clear()  # Tune has ended them
        if self._none_left:
            for job in [job for jobs in self.jobs.values() for job in jobs.values() if job.name in self.queue.live]:
                self._settle(job, JobOutcome(JobState.FAILED, self._none_left))

    def _settle(self, job: Job, outcome: JobOutcome) -> None:
        if outcome.state in (JobState.DIED, JobState.PREEMPTED) and (process := self._control.process(job.name)):
            self.lost[job.name] = process
            note_lost([process])
        self.queue.ended(job.name, outcome)
        if self._meter is not None:
            self._meter.ended(job, final=outcome.state in FINAL)
        if outcome.state is JobState.PREEMPTED:
            self._preempted(job, outcome.why)
        self.exploration.ended(job, outcome)


class _Handout(Searcher):  # type: ignore[misc]
    """Gives Tune the next job or batch of the queue; to Tune it is a search algorithm."""

    def __init__(self, driver: _Driver, config: Callable[[Sequence[Job]], dict[str, Any]]) -> None:
        super().__init__()
        self._driver, self._config = driver, config

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as the driver's

    def suggest(self, trial_id: str) -> Any:
        """The next jobs; None if there are none yet."""
        self._driver.look()
        if self.finished or self._driver.stopping():
            return Searcher.FINISHED
        jobs = self._driver.queue.take()
        if not jobs:
            return None
        self._driver.jobs[trial_id] = {job.spec.name: job for job in jobs}
        return self._config(jobs)

    @property
    def finished(self) -> bool:
        """Whether all runs have ended, and no search has another point."""
        self._driver.exploration.refill(self._driver.queue)
        return self._driver.queue.finished

    @property
    def resting(self) -> bool:
        """Whether no run could start now."""
        self._driver.exploration.refill(self._driver.queue)
        return self._driver.queue.resting

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **_: Any) -> bool:
        """Accept: nothing is searched."""
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the driver handles outcomes."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the store has all state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the store has all state."""


class _Handouts(SearchGenerator):  # type: ignore[misc]
    """Finished, to Tune, while no run could start: then it keeps no idle process, and so no idle node."""

    def is_finished(self) -> bool:
        """Whether Tune need not ask for a trial now."""
        return bool(super().is_finished() or self.searcher.resting)


class _AllStopped(tune.Stopper):  # type: ignore[misc]
    """Ends Tune when no run is running, once a stop was requested or nothing else can run.

    Trials that wait for resources are dropped.
    """

    def __init__(self, driver: _Driver) -> None:
        self._driver = driver

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never end a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether to end Tune; called after every step."""
        driver = self._driver
        return not driver.running and (driver.stopping() or driver.may_end)
