"""One trial of Tune: its config, the run or batched runs that it executes, and its reports."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from pydantic import BaseModel, SerializeAsAny, model_validator

from rt_scale.ray_backend.control import ControlClient, StopReason
from rt_scale.ray_backend.device import keep, require_gpus, works
from rt_scale.ray_backend.resources import short_name
from rt_scale.scheduler.job import JobOutcome, JobState
from rt_scale.spec.errors import DeviceLost, LeasedElsewhere, RtScaleError, StoreUnavailable, WorkersDied
from rt_scale.spec.kinds import import_kinds
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.lease import Process, note_lost
from rt_scale.store.objects.store import open_place
from rt_scale.store.results import BatchSize, RunResult

if TYPE_CHECKING:
    from rt_scale.data.loaders.resident import Resident
    from rt_scale.experiments.options import Options


class JudgedBy(BaseModel, frozen=True):
    """The sweep whose rule may end a run early, and the metric by which it judges."""

    sweep: str
    metric: str


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A finite value of the metric by which its sweep's rule judges a run, after so many optimiser steps and epochs.

    ``last``: whether the run has no more steps.
    """

    sweep: str
    run: str
    step: int
    epoch: float
    last: bool
    value: float


class TrialConfig(BaseModel, frozen=True):
    """The config of a trial; Ray carries it as JSON.

    Attributes:
        specs: one run, or several of one shape to train as one batched network.
        store: as ``open_place`` takes it.
        data_dir: folder of prepared data sets on every node.
        local: whether the cluster is this machine.
        measured_size: how many runs of this shape to train together, if measured before.
        lost: the processes, lost since, that executed these runs before.
    """

    specs: tuple[SerializeAsAny[RunSpec], ...]
    launch: LaunchSpec
    store: str
    data_dir: Path
    device: str
    local: bool
    rule: JudgedBy | None = None
    measured_size: BatchSize | None = None
    lost: tuple[Process, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _with_kinds(cls, given: Any) -> Any:
        import_kinds(given)  # in the trial's process, which has imported nothing yet
        return given

    def where(self) -> str:
        """What the run is executed on, in words: the node, if not local, and the device."""
        node = [] if self.local else [ray.util.get_node_ip_address()]
        if self.launch.workers > 1:
            return " ".join([*node, f"{self.launch.workers} workers"])
        gpus = ray.get_gpu_ids()
        device = f"cuda:{','.join(map(short_name, gpus))}" if gpus and self.device != "cpu" else self.device
        return " ".join([*node, "cpu" if device == "auto" and not gpus else device])

    def options(self, client: ControlClient) -> Options:
        """Options of a run in this process; ``client`` observes and stops it."""
        from rt_scale.experiments.options import Options  # not at the top: the driver does not import torch

        note_lost(self.lost)
        return Options(
            store=open_place(self.store),
            data_dir=self.data_dir,
            device=self.device,
            threads=self.launch.cpus,
            accelerate=self.launch.accelerate,
            loader=self.launch.loader,
            observer=client,
            gpus=self.launch.gpus or 1.0,
            stop=client.stop,
            resident=_resident(),
        )


class TrialReport(BaseModel, frozen=True, ser_json_inf_nan="constants"):
    """A message from a trial to the driver; Ray carries it as JSON.

    It holds the outcomes of runs by name, a measurement for the rule that may end the run early, and how many runs of
    this shape to train together, if this trial measured it.
    """

    outcomes: dict[str, JobOutcome] = {}
    measured: Measurement | None = None
    measured_size: BatchSize | None = None


Report = Callable[[TrialReport], None]
"""Returns when the driver has read it."""


def run_trial(config: TrialConfig, report: Report, run: Callable[[TrialConfig, ControlClient], RunResult]) -> None:
    """Execute the one run of a trial with ``run``, and report how it came out."""
    (spec,) = config.specs
    client = JudgedClient(config, report) if config.rule else ControlClient(spec.name, config.where())
    client.begin()
    outcome: RunResult | BaseException
    try:
        outcome = run(config, client)
    except (Exception, Stopped) as error:
        outcome = error
    report(TrialReport(outcomes={spec.name: job_outcome(outcome, client)}))
    if config.launch.workers == 1:
        _leave([client], [outcome])


def _leave(clients: Sequence[ControlClient], outcomes: Sequence[RunResult | BaseException]) -> None:
    """Return only if Tune may use this process again: not on a node about to be preempted, not after CUDA failed."""
    if any(client.preempted for client in clients):
        os._exit(0)
    if any(isinstance(outcome, DeviceLost) for outcome in outcomes):
        if not works():
            keep()
        os._exit(0)


def run_in_process(config: TrialConfig, client: ControlClient) -> RunResult:
    """Execute a trial's run in this process."""
    from rt_scale.experiments.runner import run

    require_gpus(config.device)
    with client.reporting():
        return run(config.specs[0], config.options(client))


def job_outcome(outcome: RunResult | BaseException, client: ControlClient) -> JobOutcome:
    """How a run came out, from its result or the exception that ended it."""
    if not isinstance(outcome, BaseException):
        return JobOutcome(JobState.DONE, values=outcome.last)
    if isinstance(outcome, Stopped):
        if client.stop_request is not None and client.stop_request.reason is StopReason.ENDED_EARLY:
            return JobOutcome(JobState.EARLY_STOPPED, client.stop_request.text, client.newest.values)
        if client.stop_request is not None and client.preempted:
            return JobOutcome(JobState.PREEMPTED, client.stop_request.text)
        return JobOutcome(JobState.RETURNED, client.stop_request.text if client.stop_request else "")
    if isinstance(outcome, LeasedElsewhere):
        return JobOutcome(JobState.LEASED_ELSEWHERE, outcome.owner)
    if isinstance(outcome, DeviceLost):
        return JobOutcome(JobState.DIED if works() else JobState.DEVICE_LOST, str(outcome))
    if isinstance(outcome, StoreUnavailable):
        return JobOutcome(JobState.STORE_UNAVAILABLE, str(outcome))
    if isinstance(outcome, WorkersDied):
        return JobOutcome(JobState.PREEMPTED if outcome.with_node else JobState.DIED, str(outcome))
    if isinstance(outcome, RtScaleError):
        return JobOutcome(JobState.FAILED, str(outcome))
    # A run that has started raises only RtScaleErrors.
    error = f"{type(outcome).__name__}: {' '.join(str(outcome).split())}"
    return JobOutcome(JobState.FAILED, f"it could not be started ({error}); see what is missing with 'rt-scale doctor'")


class JudgedClient(ControlClient):
    """The client of a run that its sweep's rule may end early: every measurement of the metric is judged."""

    def __init__(self, config: TrialConfig, report: Report) -> None:
        super().__init__(config.specs[0].name, config.where())
        assert config.rule is not None  # see run_trial
        self._rule, self._report_to_driver = config.rule, report

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Numbers were recorded; if the rule judges one of them, it has decided when this returns."""
        super().logged(step, epoch, values)
        value = values.get(self._rule.metric, math.nan)
        if math.isfinite(value):
            last = step >= self.newest.steps
            self._report_to_driver(
                TrialReport(measured=Measurement(self._rule.sweep, self.run, step, epoch, last, value))
            )
            self.pass_on()


def run_batch(config: TrialConfig, report: Report) -> None:
    """Execute as many runs of a trial as train together, and report each outcome at once.

    The others are returned to the queue first, with the measured batch size.
    """
    from rt_scale.experiments.batched import run_batched

    clients = [ControlClient(spec.name, config.where()) for spec in config.specs]
    options = [config.options(client) for client in clients]
    reporting = [ExitStack() for _ in config.specs]

    def start(number: int) -> None:
        clients[number].begin()
        reporting[number].enter_context(clients[number].reporting())

    start(0)  # a stop request also ends the measurement below
    size = _batch_size(config, options[0])
    specs, spare = config.specs[: size.size], config.specs[size.size :]
    outcomes = {spec.name: JobOutcome(JobState.RETURNED) for spec in spare}
    report(TrialReport(outcomes=outcomes, measured_size=size if size.seconds else None))

    ends: list[RunResult | BaseException] = []

    def ended(number: int, outcome: RunResult | BaseException) -> None:
        ends.append(outcome)
        reporting[number].close()
        report(TrialReport(outcomes={specs[number].name: job_outcome(outcome, clients[number])}))

    for number in range(1, len(specs)):
        start(number)
    run_batched(specs, [dataclasses.replace(each, batching=size) for each in options[: len(specs)]], ended)
    _leave(clients, ends)


def _batch_size(config: TrialConfig, options: Options) -> BatchSize:
    from rt_scale.experiments.batched import choose_batch_size

    specs: Sequence[RunSpec] = config.specs
    if config.measured_size is not None:
        return config.measured_size
    if len(specs) == 1:
        return BatchSize(size=1, reason="no other run of its shape was waiting")
    try:
        return choose_batch_size(specs, options, None if config.launch.pack == "auto" else config.launch.pack)
    except Stopped:
        return BatchSize(size=1, reason="asked to stop while it was measured")
    except Exception as error:  # the first run will raise and record it, too
        return BatchSize(size=1, reason=f"could not be measured: {error}")


@functools.cache
def _resident() -> Resident:
    """The images that this process keeps for its next run; a Tune function has no other state between trials."""
    from rt_scale.data.loaders.resident import Resident

    return Resident()
