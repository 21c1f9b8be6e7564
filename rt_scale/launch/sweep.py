"""A sweep from its file to finished runs; a second driver finds everything the first one knew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rt_scale.data.catalogue import DATASETS
from rt_scale.experiments.check import check_all, unfinished
from rt_scale.launch.tune import View, run_points
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.metric_names import ProbeName
from rt_scale.spec.sweep import Point, SweepSpec
from rt_scale.store.board import BoardRun, build_sweep_board
from rt_scale.store.store import Store


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


def run_sweep(
    sweep: SweepSpec,
    points: Sequence[Point],
    text: str,
    *,
    store: Store,
    data_dir: Path,
    device: str,
    concurrency: int | None,
    view: Callable[[int, int], AbstractContextManager[View]],
) -> Outcome:
    """Run what is not finished yet through Ray Tune.

    Args:
        sweep: the sweep.
        points: its runs.
        text: its file, kept in the store as run.
        store: where runs are kept.
        data_dir: where prepared data sets are.
        device: as ``Settings.device``.
        concurrency: runs at a time, at most.
        view: makes the view from the number of runs and the number done before.

    Raises:
        InputError: where data or the device are missing, the store cannot be written or resources are not there.
    """
    store.check_writable()
    store.refresh(curves=False)
    folder = store.sweep(sweep.name)
    done = {point.spec.name for point, _ in finished_runs(points, store)}
    todo = [point for point in points if point.spec.name not in done]
    check_all([point.spec for point in todo], data_dir)
    precisions = {each.precision for point in todo for each in unfinished(point.spec, store)}
    if todo and (device != "auto" or "tf32" in precisions):
        _check_device(device, precisions)
    if todo and sweep.launch.loader == "ffcv":
        _check_ffcv()
    folder.write(text, [point.spec.name for point in points])
    refresh_board(sweep, points, store)
    told: dict[str, str] = {}
    if todo:
        with view(len(points), len(done)) as shown:
            told = run_points(
                todo, sweep.launch, store=store.place, data_dir=data_dir, device=device, view=shown,
                concurrency=concurrency,
            )  # fmt: skip
        store.refresh()
    finished = finished_runs(points, store)
    complete = {point.spec.name for point, _ in finished}
    failed = {
        point.label: told.get(point.label) or reason(store, point)
        for point in points
        if point.spec.name not in complete
    }
    return Outcome(finished, failed)


def _check_device(device: str, precisions: Iterable[str]) -> None:
    from rt_scale.experiments.settings import find_device  # imports torch, which nothing else here needs
    from rt_scale.training.precision import check_precision

    found = find_device(device)
    for precision in precisions:
        check_precision(precision, found)


def _check_ffcv() -> None:
    from rt_scale.data.ffcv import require_ffcv  # imports torch, too

    require_ffcv()


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


def refresh_board(sweep: SweepSpec, points: Sequence[Point], store: Store) -> Path:
    """Make the sweep's TensorBoard view from its run directories; returns its folder."""
    folder = store.sweep(sweep.name).board
    runs = [
        BoardRun(
            label=point.label,
            group=point.configuration,
            folder=store.run(point.spec).path,
            values=point.values,
        )
        for point in points
    ]
    build_sweep_board(folder, runs, board_metrics(points))
    return folder


def board_metrics(points: Sequence[Point]) -> list[str]:
    """Tags that become columns of the HParams view: the probes, then what training ended with."""
    tags = [
        str(ProbeName(role, kind, data))
        for main, probe in dict.fromkeys((_labelled(point.spec.data.name), point.spec.probe) for point in points)
        for data in (*([None] if main and probe.own else []), *probe.also)
        for kind in probe.kinds
        for role in ("student", "teacher", "input")
    ]
    return [*dict.fromkeys(tags), "train/loss", "train/kl", "distance/from_init", "distance/from_teacher"]


def _labelled(name: str) -> bool:
    """Whether the images of that set can be probed, as all can that are not known to have no labels."""
    return name != GAUSSIAN and (name not in DATASETS or DATASETS[name].labelled)
