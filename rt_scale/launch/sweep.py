"""Sweeps from their files to finished runs; a second driver finds everything the first one knew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rt_scale.experiments.check import check_all, unfinished
from rt_scale.launch.comparison import refresh_board
from rt_scale.launch.queue import Queue, Task
from rt_scale.spec.errors import InputError
from rt_scale.spec.graph import all_runs
from rt_scale.spec.sweep import LaunchSpec, Point, SweepSpec
from rt_scale.store.store import Store

if TYPE_CHECKING:
    from rt_scale.launch.live import View


@dataclass(frozen=True)
class Sweep:
    """A sweep file as it is to be run.

    Attributes:
        spec: what the file says.
        points: its runs.
        text: the file, kept in the store as run.
    """

    spec: SweepSpec
    points: Sequence[Point]
    text: str


@dataclass(frozen=True)
class Where:
    """Where and how sweeps are run; nothing here changes a run's numbers.

    Attributes:
        store: where runs are kept.
        data_dir: where prepared data sets are.
        device: as ``Settings.device``.
        address: the Ray cluster, as for ``cluster.connect``.
        concurrency: runs at a time, at most.
        retry_failed: whether runs are tried again that failed for a reason of their own.
    """

    store: Store
    data_dir: Path
    device: str = "auto"
    address: str | None = None
    concurrency: int | None = None
    retry_failed: bool = False

    @property
    def alone(self) -> bool:
        """Whether a Ray of our own on this machine executes the runs, so that it must have what they need."""
        return self.address in {None, "local"} and (self.address == "local" or not os.environ.get("RAY_ADDRESS"))


@dataclass(frozen=True)
class Outcome:
    """How a sweep stands after a driver is through with it.

    Attributes:
        finished: runs with their results, in the sweep's order.
        failed: label of a run -> why it has no result.
    """

    finished: list[tuple[Point, dict[str, Any]]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def finished_runs(points: Sequence[Point], store: Store) -> list[tuple[Point, dict[str, Any]]]:
    """The runs among ``points`` that are complete, with their results."""
    results = [(point, store.run(point.spec).result()) for point in points]
    return [(point, result) for point, result in results if result is not None]


def run_sweeps(
    sweeps: Sequence[Sweep],
    where: Where,
    view: Callable[[int, int], AbstractContextManager[View]],
    stopping: Callable[[], bool] = lambda: False,
    lost: Callable[[str], None] = lambda address: None,
) -> list[Outcome]:
    """Run what is not finished yet of all sweeps, as one queue through Ray Tune.

    Args:
        sweeps: with names of their own.
        where: where and how.
        view: makes the view from the number of runs and the number done before.
        stopping: whether to stop: runs under way write a checkpoint, and the rest is left for later.
        lost: called from another thread with the address of a cluster whose head does not answer any more.

    Returns:
        How each sweep stands.

    Raises:
        InputError: where data or the device are missing, the store cannot be written, the cluster does not answer or
            resources are not there.
        KeyboardInterrupt: where it was stopped.
    """
    store = where.store
    store.check_writable()
    store.refresh(curves=False)
    tasks = wanted(sweeps)
    done = {name for name in tasks if store.status(name).state == "done"}
    todo = [task for name, task in tasks.items() if name not in done]
    if where.alone:
        check_here(todo, where)
    for sweep in sweeps:
        store.sweep(sweep.spec.name).write(sweep.text, [point.spec.name for point in sweep.points])
        refresh_board(sweep.spec, sweep.points, store)
    told: dict[str, str] = {}
    if todo:
        told = _run(todo, len(tasks), where, view, stopping, lost)
        store.refresh()
    if stopping():
        raise KeyboardInterrupt
    return [_outcome(sweep, told, store) for sweep in sweeps]


def wanted(sweeps: Sequence[Sweep]) -> dict[str, Task]:
    """The distinct runs of all sweeps by name; one that several want is executed as the first of them says."""
    if len({sweep.spec.name for sweep in sweeps}) < len(sweeps):
        names = ", ".join(sweep.spec.name for sweep in sweeps)
        raise InputError(f"Sweeps that are run together need names of their own; given: {names}.")
    tasks: dict[str, Task] = {}
    for sweep in sweeps:
        prefix = f"{sweep.spec.name}: " if len(sweeps) > 1 else ""
        for point in sweep.points:
            tasks.setdefault(point.spec.name, Task(f"{prefix}{point.label}", point.spec, sweep.spec.launch))
    return tasks


def _run(
    todo: Sequence[Task],
    total: int,
    where: Where,
    view: Callable[[int, int], AbstractContextManager[View]],
    stopping: Callable[[], bool],
    lost: Callable[[str], None],
) -> dict[str, str]:
    """Why runs have no result that do not say so themselves, by name."""
    from rt_scale.launch.cluster import connect  # Ray is not needed where all is done
    from rt_scale.launch.notices import cluster_lost
    from rt_scale.launch.tune import Place, run_queue

    launches = dict.fromkeys(task.launch for task in todo)
    place = Place(where.store.place, where.data_dir, where.device)
    given_up = {} if where.retry_failed else failed_before(todo, where.store)
    with ExitStack() as stack:
        shown = stack.enter_context(view(total, total - len(todo)))
        cluster = stack.enter_context(connect(where.address, train=any(launch.workers > 1 for launch in launches)))
        for launch in launches:
            cluster.refuse_impossible(launch)
        if not cluster.local:
            shown.said(cluster.describe())
            stack.enter_context(cluster_lost(cluster.address, lambda: lost(cluster.address)))

        def room(launch: LaunchSpec) -> int | None:
            return cluster.at_once(launch) if launch.workers > 1 else None

        queue = Queue(todo, where.store, shown, concurrency=where.concurrency, room=room, given_up=given_up)
        run_queue(queue, place, cluster, shown, stopping=stopping)
    return queue.failed


def failed_before(tasks: Iterable[Task], store: Store) -> dict[str, str]:
    """Why runs, and those that they start from, failed when they were last tried, by name."""
    found = {}
    for spec in all_runs(task.spec for task in tasks):
        if store.status(spec.name).state == "failed":
            why = str((store.run(spec).failure() or {}).get("reason", "no reason is recorded"))
            found[spec.name] = f"{why} (It failed before, and is tried again with --retry-failed.)"
    return found


def check_here(todo: Sequence[Task], where: Where) -> None:
    """Refuse what cannot be run on this machine, before anything starts (InputError)."""
    check_all([task.spec for task in todo], where.data_dir)
    precisions = {each.precision for task in todo for each in unfinished(task.spec, where.store)}
    if todo and (where.device != "auto" or "tf32" in precisions):
        from rt_scale.experiments.settings import find_device  # imports torch, which nothing else here needs
        from rt_scale.training.precision import check_precision

        found = find_device(where.device)
        for precision in precisions:
            check_precision(precision, found)
    if any(task.launch.loader == "ffcv" for task in todo):
        from rt_scale.data.ffcv import require_ffcv  # imports torch, too

        require_ffcv()


def _outcome(sweep: Sweep, told: Mapping[str, str], store: Store) -> Outcome:
    finished = finished_runs(sweep.points, store)
    complete = {point.spec.name for point, _ in finished}
    missing = [point for point in sweep.points if point.spec.name not in complete]
    return Outcome(finished, {point.label: told.get(point.spec.name) or reason(store, point) for point in missing})


def reason(store: Store, point: Point) -> str:
    """Why a run has no result, in a sentence."""
    run_dir = store.run(point.spec)
    failure = run_dir.failure()
    if failure is not None:
        return str(failure["reason"])
    status = run_dir.status()
    if status.state == "running":
        return f"it is being run by {status.owner}"
    return "it did not finish (its process died or was stopped); run the sweep again to go on"
