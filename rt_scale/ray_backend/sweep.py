"""Runs sweeps from their files to results; all state is in the store, so a second driver can continue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rt_scale.plugins import load
from rt_scale.scheduler.comparison import refresh_board
from rt_scale.scheduler.deadline import Deadline
from rt_scale.scheduler.job import Job, Where, asked_address, jobs_of
from rt_scale.scheduler.preflight import (
    changed,
    check_exploration,
    check_here,
    failed_before,
    refuse_hidden_gpus,
    runs_on_other_data,
)
from rt_scale.scheduler.queue import Queue, StoredRuns
from rt_scale.spec.errors import DeadlineReached, counted
from rt_scale.spec.grid import Point
from rt_scale.spec.stopping import stop_check
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns, record_points

if TYPE_CHECKING:
    from rt_scale.ray_backend.cluster import Cluster
    from rt_scale.scheduler.job import View


@dataclass(frozen=True)
class SweepOutcome:
    """How the runs of a sweep came out, in its order.

    ``failed`` maps the label of a run to why it has no result, ``ended`` that of a run ended early by the sweep's rule,
    ``left`` that of a run left to another driver to who executes it.
    """

    finished: list[Point] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def run_sweeps(
    sweeps: Sequence[SweepRuns],
    where: Where,
    view: Callable[[int, int], AbstractContextManager[View]],
    stopping: Callable[[], bool] = lambda: False,
    lost: Callable[[str], None] = lambda why: None,
) -> list[SweepOutcome]:
    """Execute the unfinished runs of all sweeps, which have distinct names, as one queue through Ray Tune.

    Args:
        view: makes the view from the number of runs and the number done before.
        stopping: whether to stop; running runs then write a checkpoint.
        lost: called from another thread, with a paragraph, when the cluster is lost; it must end this process.

    Raises:
        InputError: if data, device or resources are missing, the store is read-only, or the cluster does not answer.
        KeyboardInterrupt: if it was stopped.
        DeadlineReached: if runs are left at the deadline.
    """
    store = where.store
    store.check_writable()
    store.refresh(curves=False)
    jobs = jobs_of(sweeps)
    early = {name for sweep in sweeps for name in sweep.early_stopped}
    todo = [job for name, job in jobs.items() if name not in early and store.status(name).state != "done"]
    notes = _check(sweeps, todo, where, stopping)
    to_sample = sum(sweep.to_sample for sweep in sweeps)
    keep(sweeps)
    given_up = {} if where.retry_failed else failed_before(todo, store)
    failed = {job.spec.name: given_up[job.spec.name] for job in todo if job.spec.name in given_up}
    left, late = set[str](), set[str]()
    if len(failed) < len(todo) or to_sample:
        with view(len(jobs) + to_sample, len(jobs) - len(todo)) as shown:
            for note in filter(None, (*notes, _started_before(todo, store))):
                shown.said(note)
            failed, left, late = _run(sweeps, todo, given_up, where, shown, stopping, lost)
        store.refresh()
        for name in jobs.keys() - failed.keys() if not stopping() else ():
            if store.status(name).state != "done":  # an object store's listing may lag behind its result
                store.run(name).refresh()
        keep(sweeps)
        store.tidy()
    if stopping():
        raise KeyboardInterrupt
    _refuse_late(where.deadline, left, late)
    return [_outcome(sweep, failed, left) for sweep in sweeps]


def _refuse_late(deadline: Deadline | None, left: Collection[str], late: Collection[str]) -> None:
    """Raise DeadlineReached if runs are ``left`` at the deadline, ``late`` of them since they would not end before."""
    if deadline is not None and left and (late or deadline.passed):
        unstarted = f", {counted(len(late), 'run')} of which by the plan would not end before it" if late else ""
        raise DeadlineReached(
            f"The deadline ({deadline}) leaves {counted(len(left), 'run')} without a result{unstarted}. The same "
            "command with a later deadline, or with none, continues from the last checkpoints."
        )


def _check(sweeps: Sequence[SweepRuns], todo: Sequence[Job], where: Where, stopping: Callable[[], bool]) -> list[str]:
    """Refuse sweeps that cannot run (InputError); returns notes for the user."""
    refuse_hidden_gpus([job.launch for job in todo], where.device)
    for sweep in sweeps:
        check_exploration(sweep.spec, where, stop_check(stopping))
    if where.alone:
        check_here(todo, where, stop_check(stopping))
    else:
        for plugin in {plugin for sweep in sweeps for plugin in sweep.spec.names.found.values()}:
            load(*plugin)
    changes = (changed(sweep, where.replace) for sweep in sweeps)
    return [note for note in (runs_on_other_data(sweeps, where), *changes) if note]


def _started_before(todo: Sequence[Job], store: Store) -> str:
    """How many runs go on from their checkpoints, and how many other drivers execute, in words; empty if none."""
    begun = [(job.name, store.status(job.name)) for job in todo]
    theirs = Counter(status.owner for _, status in begun if status.state == "running")
    ours = [name for name, status in begun if status.state in ("partial", "failed")]
    going_on = sum(bool(store.run(name).checkpoints.steps()) for name in ours)
    parts = [f"{going_on} go on from their checkpoints" if going_on > 1 else "1 goes on from its checkpoint"]
    parts = parts if going_on else []
    parts += [f"{number} {'is' if number == 1 else 'are'} executed by {owner}" for owner, number in theirs.items()]
    return f"of {counted(len(todo), 'run')} to do, {', '.join(parts)}" if parts else ""


def keep(sweeps: Sequence[SweepRuns]) -> None:
    """Record sweeps, their known runs and their comparison views in the store."""
    for sweep in sweeps:
        record_points(sweep)
        sweep.folder.write(sweep.text, [point.spec.name for point in sweep.points], sweep.overrides)
        refresh_board([sweep])


def _run(
    sweeps: Sequence[SweepRuns],
    todo: Sequence[Job],
    given_up: Mapping[str, str],
    where: Where,
    view: View,
    stopping: Callable[[], bool],
    lost: Callable[[str], None],
) -> tuple[dict[str, str], set[str], set[str]]:
    """Run the queue, until ``stopping`` or the deadline.

    Returns name -> reason for runs without result whose directory holds no reason, the names of those that are left, to
    other drivers or at the deadline, and of those that would not end before it.
    """
    # Imported here: Ray is not needed if all runs are done, or failed before and are not tried again.
    from rt_scale.ray_backend.control import ControlActor
    from rt_scale.ray_backend.explore import Exploration
    from rt_scale.ray_backend.tune import run_queue
    from rt_scale.ray_backend.usage import Meter

    launches, deadline = list(dict.fromkeys(sweep.spec.launch for sweep in sweeps)), where.deadline
    with ExitStack() as stack:
        cluster = stack.enter_context(_connected(sweeps, launches, where, view, lost))
        meter = Meter([sweep.folder for sweep in sweeps], where.store.place, where.planned)
        stack.callback(meter.close)
        ending = stopping if deadline is None else lambda: stopping() or deadline.passed

        def waiting_ends() -> bool:
            meter.look()  # nodes that wait for others are paid, too
            return ending()

        if where.wait_nodes is not None:
            cluster.wait_for(where.wait_nodes, launches, view.said, waiting_ends)
        queue = Queue(
            todo, StoredRuns(where.store), view, cluster,
            concurrency=where.concurrency, given_up=given_up, leave_others=where.leave_others,
            may_start=deadline.allows if deadline else lambda job: True,
        )  # fmt: skip
        control = stack.enter_context(ControlActor())
        if todo:
            view.said("starting the first runs: each process imports PyTorch and reads its images")
        exploration = Exploration(sweeps, given_up, cluster.at_once, added=view.added, tell=control.end)
        run_queue(queue, where, cluster, control, view, exploration, meter, stopping=ending)
    return queue.failed, queue.left, queue.late


@contextmanager
def _connected(
    sweeps: Sequence[SweepRuns],
    launches: Sequence[LaunchSpec],
    where: Where,
    view: View,
    lost: Callable[[str], None],
) -> Iterator[Cluster]:
    """The cluster, which can hold the runs, and whose head is watched."""
    from rt_scale.ray_backend.cluster import connect
    from rt_scale.ray_backend.head import Head, in_words, watch_head

    train, log_dir = any(launch.workers > 1 for launch in launches), where.store.sweep(sweeps[0].spec.name).path
    plugins = [plugin for sweep in sweeps for plugin in sweep.spec.names.found.values()]
    view.said("starting Ray" if where.alone else f"connecting to the Ray cluster at {asked_address(where.address)[0]}")
    with connect(where.address, train=train, log_dir=log_dir, plugins=plugins, max_nodes=where.max_nodes) as cluster:
        _check_fit(cluster, launches, where, view)
        name = "the local Ray" if cluster.local else f"the Ray cluster at {cluster.address}"
        with watch_head(Head(cluster.address).trouble, lambda *how: lost(in_words(name, *how))):
            yield cluster


def _check_fit(cluster: Cluster, launches: Iterable[LaunchSpec], where: Where, view: View) -> None:
    """Refuse runs that no node could ever hold, and say what the cluster is."""
    for launch in launches:
        cluster.refuse_impossible(launch)
    if not cluster.local:
        view.said(cluster.describe())
    if where.device == "auto" and (note := cluster.unused_gpus(launches)):
        view.said(note)


def _outcome(sweep: SweepRuns, failed: Mapping[str, str], left: Collection[str]) -> SweepOutcome:
    outcome, early = SweepOutcome(), sweep.early_stopped
    for point in sweep.points:
        name = point.spec.name
        if sweep.store.run(point.spec).result() is not None:
            outcome.finished.append(point)
        elif name in early:
            outcome.ended[point.label] = str(early[name])
        elif name in left:
            owner = sweep.store.status(name).owner
            outcome.left[point.label] = owner or "it needs a run that another driver executes"
        else:
            outcome.failed[point.label] = failed.get(name) or reason(sweep.store, point)
    return outcome


def reason(store: Store, point: Point) -> str:
    """Why a run has no result, in a sentence."""
    run_dir = store.run(point.spec)
    failure = run_dir.failure()
    if failure is not None:
        return str(failure["reason"])
    status = run_dir.status()
    if status.state == "running":
        return f"it is being run by {status.owner}"
    return "it did not finish (its process died or was stopped); run the sweep again to resume"
