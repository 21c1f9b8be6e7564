"""One trial of Tune: what it is told, the run or the batched runs that it executes, and how they come out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from rt_scale.ray_backend.control import ENDED, PREEMPTED, ControlClient
from rt_scale.scheduler.early_stopping import report_for
from rt_scale.scheduler.job import Job, JobState
from rt_scale.spec.errors import Held, RtScaleError, StoreAway, WorkersDied
from rt_scale.spec.explore import ExploreSpec
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store.objects.store import open_place
from rt_scale.store.results import BatchSize, RunResult

if TYPE_CHECKING:
    from rt_scale.data.loaders.resident import Resident
    from rt_scale.experiments.options import Options
    from rt_scale.ray_backend.cluster import Cluster


@dataclass(frozen=True)
class Place:
    """Where runs are executed and kept.

    Attributes:
        store: the store, as other processes open it.
        data_dir: where prepared data sets are, on every node.
        device: as ``Options.device``.
    """

    store: str
    data_dir: Path
    device: str


def trial_config(
    tasks: Sequence[Job], packing: Mapping[str, Any] | None, place: Place, cluster: Cluster
) -> dict[str, Any]:
    """Everything that the process of a trial needs to execute its run, or its pack of runs.

    Args:
        tasks: one, or runs of one shape and launch section.
        packing: how many of them to train together, where that was measured before.
        place: where they are executed and kept.
        cluster: which they are executed on.
    """
    first = tasks[0]
    config = {
        "spec": first.spec.model_dump(mode="json"),
        "launch": first.launch.model_dump(mode="json"),
        "store": place.store,
        "data_dir": str(place.data_dir.absolute()),
        "device": place.device,
        "local": cluster.local,
        "bundle": cluster.trial_resources(first.launch),
        "judged": _judged(first.sweep),
    }
    if first.launch.pack != 1:
        config |= {"specs": [task.spec.model_dump(mode="json") for task in tasks], "packing": packing}
    return config


def _judged(sweep: SweepSpec | None) -> dict[str, Any] | None:
    """What a run needs that its sweep's rule may end early."""
    if sweep is None or sweep.explore is None or sweep.explore.stop is None:
        return None
    return {"sweep": sweep.name, "explore": sweep.explore.model_dump(mode="json")}


def run_trial(given: Mapping[str, Any]) -> dict[str, Any]:
    """Execute the run that a trial was given, and say how it ended.

    Args:
        given: ``spec`` and ``launch`` as JSON; ``store``, ``data_dir`` and ``device``; ``local``, whether all is on
            one machine; ``judged``, of a run that a rule may end early: ``explore`` as JSON and ``sweep``.

    Returns:
        ``state``, ``why`` and ``values`` as in :class:`rt_scale.scheduler.job.JobOutcome`.
    """
    # Imported here: the driver never needs torch.
    from rt_scale.training.loop import Stopped

    spec, launch = RunSpec.model_validate(given["spec"]), LaunchSpec.model_validate(given["launch"])
    where = where_it_is(launch, given)
    client = Judged(spec.name, where, given["judged"]) if given["judged"] else ControlClient(spec.name, where)
    client.begin()
    try:
        if launch.workers > 1:
            from rt_scale.ray_backend.train_workers import run_with_workers  # Ray Train is needed nowhere else

            result = run_with_workers(
                spec, launch, store=given["store"], data_dir=Path(given["data_dir"]), device=given["device"],
                client=client,
            )  # fmt: skip
        else:
            result = _run(spec, launch, given, client)
    except Stopped as stopped:
        if client.told == PREEMPTED and launch.workers == 1:
            os._exit(0)  # nothing else is to start in this process: its node is about to go
        return how_it_ended(stopped, client)
    except Exception as error:
        return how_it_ended(error, client)
    return how_it_ended(result, client)


def how_it_ended(outcome: RunResult | BaseException, client: ControlClient) -> dict[str, Any]:
    """``state``, ``why`` and ``values`` as in :class:`rt_scale.scheduler.job.JobOutcome`.

    Args:
        outcome: the result of the run, or what ended it.
        client: the run's.
    """
    from rt_scale.training.loop import Stopped

    if not isinstance(outcome, BaseException):
        return _ended(JobState.DONE, values=outcome.last)
    if isinstance(outcome, Stopped):
        if client.told.startswith(ENDED):
            return _ended(JobState.EARLY_STOPPED, client.told.removeprefix(ENDED), client.values)
        return _ended(JobState.RETURNED, client.told)
    states: dict[type[BaseException], JobState] = {
        Held: JobState.LEASED_ELSEWHERE, StoreAway: JobState.STORE_UNAVAILABLE, WorkersDied: JobState.DIED,
    }  # fmt: skip
    for kind, state in states.items():
        if isinstance(outcome, kind):
            return _ended(state, str(outcome))
    return _ended(JobState.FAILED, _in_words(outcome))


class Judged(ControlClient):
    """The side of a run that its sweep's rule may end early: every measurement of the metric is judged.

    Args:
        run, where: as for :class:`ControlClient`.
        judged: ``explore``, the sweep's section as JSON, and ``sweep``, its name.
    """

    def __init__(self, run: str, where: str, judged: Mapping[str, Any]) -> None:
        super().__init__(run, where)
        self._explore, self._sweep = ExploreSpec.model_validate(judged["explore"]), judged["sweep"]

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Numbers were recorded: the rule, where it goes by one of them, has decided when this returns."""
        super().logged(step, epoch, values)
        said = report_for(
            self._explore, self._sweep, self.run, step=step, steps=self.steps, epoch=epoch, values=values
        )  # fmt: skip
        if said:
            tune.report({"state": "running", **said})
            self.pass_on()


def _ended(state: str, why: str = "", values: Mapping[str, float] | None = None) -> dict[str, Any]:
    return {"state": state, "why": why, "values": dict(values or {})}


def _run(spec: RunSpec, launch: LaunchSpec, given: Mapping[str, Any], client: ControlClient) -> RunResult:
    from rt_scale.experiments.runner import run

    with client.reporting():
        return run(spec, settings_for(launch, given, client))


def settings_for(launch: LaunchSpec, given: Mapping[str, Any], client: ControlClient) -> Options:
    """Where and how a trial's run is executed in its process.

    Args:
        launch: its launch section.
        given: what the trial was given.
        client: watches it, and stops it.
    """
    from rt_scale.experiments.options import Options

    return Options(
        store=open_place(given["store"]),
        data_dir=Path(given["data_dir"]),
        device=given["device"],
        threads=launch.cpus,
        accelerate=launch.accelerate,
        loader=launch.loader,
        observer=client,
        gpus=launch.gpus or 1.0,
        stop=client.stop,
        resident=_resident(),
    )


@functools.cache
def _resident() -> Resident:
    """The images that this process keeps for the next run: Tune calls a function, which has nothing else that stays."""
    from rt_scale.data.loaders.resident import Resident

    return Resident()


def where_it_is(launch: LaunchSpec, given: Mapping[str, Any]) -> str:
    """What the run is executed on, in words: the node, where there are several, and the device."""
    node = [] if given["local"] else [ray.util.get_node_ip_address()]
    if launch.workers > 1:
        return " ".join([*node, f"{launch.workers} workers"])
    gpus = ray.get_gpu_ids()
    device = f"cuda:{','.join(map(str, gpus))}" if gpus and given["device"] != "cpu" else given["device"]
    return " ".join([*node, "cpu" if device == "auto" and not gpus else device])


def _in_words(error: BaseException) -> str:
    """What ended a run; whatever happens once it is under way comes as an RtScaleError."""
    if isinstance(error, RtScaleError):
        return str(error)
    detail = " ".join(str(error).split())
    return f"it could not be started ({type(error).__name__}: {detail}); see what is missing with 'rt-scale doctor'"


Report = Callable[[dict[str, Any]], None]


def run_packed_trial(given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Execute the runs that a trial was given, as many of them as train together, and say of each how it ended.

    Args:
        given: as for :func:`ray_backend.trial.run_trial`; ``specs`` in place of ``spec``, and ``packing``, what
            was measured for their shape before, or None.
        report: takes what is to be known at once: ``runs``, how single ones ended (:class:`JobOutcome` by name;
            ``spare`` of those that are not executed here after all), and ``packing``, what was measured.

    Returns:
        ``state``: ``packed``, when all is over.
    """
    from rt_scale.experiments.batched import run_batched

    launch = LaunchSpec.model_validate(given["launch"])
    specs = [RunSpec.model_validate(each) for each in given["specs"]]
    clients = [ControlClient(spec.name, where_it_is(launch, given)) for spec in specs]
    settings = [settings_for(launch, given, client) for client in clients]
    leading = contextlib.ExitStack()
    clients[0].begin()
    leading.enter_context(clients[0].reporting())  # a stop is heard while it is measured, too
    packing = _packing(specs, settings[0], launch, given["packing"])
    specs, spare = specs[: packing.size], specs[packing.size :]
    runs = {spec.name: {"state": JobState.RETURNED, "why": "", "values": {}} for spec in spare}
    report({"state": "running", "runs": runs, "packing": packing.to_json() if packing.seconds else None})
    reporting = [leading, *(contextlib.ExitStack() for _ in specs[1:])]

    def ended(number: int, outcome: RunResult | BaseException) -> None:
        client = clients[number]
        reporting[number].close()
        if client.told != PREEMPTED:
            runs = {specs[number].name: how_it_ended(outcome, client)}
            report({"state": "running", "runs": runs})

    for stack, client in zip(reporting[1:], clients[1:], strict=False):
        client.begin()
        stack.enter_context(client.reporting())
    chosen = [dataclasses.replace(each, batching=packing) for each in settings[: len(specs)]]
    run_batched(specs, chosen, ended)
    if any(client.told == PREEMPTED for client in clients):
        os._exit(0)  # nothing else is to start in this process: its node is about to go
    return {"state": "packed"}


def _packing(specs: list[RunSpec], settings: Options, launch: LaunchSpec, known: Mapping[str, Any] | None) -> BatchSize:
    from rt_scale.experiments.batched import choose_batch_size

    if known is not None:
        return BatchSize.model_validate(known)
    if len(specs) == 1:
        return BatchSize(size=1, reason="no other run of its shape was waiting")
    try:
        return choose_batch_size(specs, settings, None if launch.pack == "auto" else launch.pack)
    except Stopped:
        return BatchSize(size=1, reason="asked to stop while it was measured")
    except Exception as error:  # which the first run will meet, too, and record
        return BatchSize(size=1, reason=f"could not be measured: {error}")
