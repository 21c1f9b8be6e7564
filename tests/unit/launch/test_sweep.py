"""What a driver decides; what runs through a real Ray is in tests/integration/test_sweep.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rt_scale.launch import sweep as module
from rt_scale.launch.sweep import board_metrics, finished_runs, reason, run_sweep
from rt_scale.launch.tune import _Forward, _in_words
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.sweep import Point, SweepSpec, expand
from rt_scale.store.store import Store

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
SWEEP = SweepSpec(name="small", base=BASE, axes={"student.alpha": [0.1, 0.5, 1.0]})


@pytest.fixture
def points() -> list[Point]:
    return expand(SWEEP)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def finish(store: Store, point: Point) -> None:
    run_dir = store.run(point.spec)
    with run_dir.acquire():
        run_dir.write_spec(point.spec)
        run_dir.complete({"last": {}, "label": point.label})


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for Ray: finishes the first run, tells a refusal of the second, says nothing of the others."""
    calls: list[dict[str, Any]] = []

    def run_points(todo: list[Point], launch: Any, *, store: Path, **more: Any) -> dict[str, str]:
        calls.append({"todo": todo, "launch": launch, "store": store, **more})
        finish(Store(store), todo[0])
        return {todo[1].label: "refused"} if len(todo) > 1 else {}

    monkeypatch.setattr(module, "run_points", run_points)
    return calls


def go(points: list[Point], store: Store, tmp_path: Path, **changes: Any) -> Any:
    views: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def view(total: int, done: int) -> Iterator[Any]:
        views.append((total, done))
        yield "view"

    given = {"store": store, "data_dir": tmp_path / "data", "device": "auto", "concurrency": None, "view": view}
    return run_sweep(SWEEP, points, "name: small\n", **{**given, **changes}), views


def test_a_driver_runs_what_is_not_finished(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any]
) -> None:
    finish(store, points[1])
    outcome, views = go(points, store, tmp_path, device="cpu", concurrency=3)
    (call,) = launched
    assert call["todo"] == [points[0], points[2]]
    assert (call["launch"], call["store"], call["device"]) == (SWEEP.launch, store.root, "cpu")
    assert (call["data_dir"], call["concurrency"], call["view"]) == (tmp_path / "data", 3, "view")
    assert views == [(3, 1)]
    assert [point for point, _ in outcome.finished] == points[:2]
    assert outcome.failed == {points[2].label: "refused"}
    folder = store.sweep("small")
    assert folder.file.read_text() == "name: small\n"
    assert folder.runs() == [point.spec.name for point in points]
    assert folder.board.is_dir()


def test_a_finished_sweep_starts_no_ray(points: list[Point], store: Store, tmp_path: Path, launched: list[Any]) -> None:
    for point in points:
        finish(store, point)
    outcome, views = go(points, store, tmp_path)
    assert launched == views == []
    assert [result["label"] for _, result in outcome.finished] == [point.label for point in points]
    assert outcome.failed == {}


@pytest.mark.parametrize("change", [{"device": "cdua"}, {"store": Store(Path("/dev/null/store"))}])
def test_what_cannot_work_is_refused_before_anything_starts(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any], change: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        go(points, **{"store": store, "tmp_path": tmp_path, **change})
    assert launched == []
    assert not (store.root / "sweeps").exists()


def test_a_sweep_that_does_not_fit_its_data_is_refused(store: Store, tmp_path: Path, launched: list[Any]) -> None:
    bad = expand(SweepSpec(name="bad", base={**BASE, "data": {"name": "digits", "samples": 3}}))
    with pytest.raises(InputError, match=r"data\.samples is 3"):
        go(bad, store, tmp_path)
    assert launched == []


def test_reasons_why_a_run_has_no_result(points: list[Point], store: Store) -> None:
    assert reason(store, points[0]).startswith("it did not finish (its process died or was stopped)")
    run_dir = store.run(points[0].spec)
    with run_dir.acquire():
        assert reason(store, points[0]).startswith("it is being run by process ")
        run_dir.fail({"reason": "The loss is nan."})
    assert reason(store, points[0]) == "The loss is nan."


def test_finished_runs_are_in_the_sweeps_order(points: list[Point], store: Store) -> None:
    assert finished_runs(points, store) == []
    finish(store, points[2])
    finish(store, points[0])
    assert [point for point, _ in finished_runs(points, store)] == [points[0], points[2]]


@pytest.mark.parametrize(
    ("probe", "there", "absent"),
    [
        ({"knn": 0}, "probe/student/linear_standardized", "knn"),
        ({"linear": False}, "probe/input/knn", "linear"),
        ({"standardized": False}, "probe/teacher/linear", "standardized"),
    ],
)
def test_the_board_has_a_column_for_what_is_probed(probe: dict[str, Any], there: str, absent: str) -> None:
    tags = board_metrics(expand(SweepSpec(name="a", base={**BASE, "probe": probe})))
    assert there in tags
    assert not [tag for tag in tags if absent in tag]
    assert "train/loss" in tags
    assert len(tags) == len(set(tags))


def test_errors_of_a_trial_are_told_in_words() -> None:
    assert _in_words(RunError("The disk is full.")) == "The disk is full."
    told = _in_words(ImportError("no module\n  named torch"))
    assert "could not be started (ImportError: no module named torch)" in told
    assert "rt-scale doctor" in told


class Recorder:
    """A view that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def running(self, label: str, result: Any) -> None:
        self.calls.append(("running", label, result["step"]))

    def finished(self, label: str, error: str | None) -> None:
        self.calls.append(("finished", label, error))


def test_events_of_trials_reach_the_view_and_errors_are_kept() -> None:
    view = Recorder()
    forward = _Forward(view)

    def trial(label: str) -> Any:
        return type("Trial", (), {"config": {"run": {"label": label}}})()

    for label, result in [
        ("a", {"state": "running", "step": 1}),
        ("a", {"state": "done"}),
        ("b", {"state": "failed", "error": "bad"}),
        ("c", {"step": 3}),
    ]:
        forward.on_trial_result(1, [], trial(label), result)
    forward.on_trial_error(1, [], trial("d"))
    assert view.calls[:3] == [("running", "a", 1), ("finished", "a", None), ("finished", "b", "bad")]
    kind, label, error = view.calls[3]
    assert (kind, label) == ("finished", "d")
    assert error.startswith("its process died 4 times")
    assert forward.errors == {"b": "bad", "d": error}
    assert forward.__getstate__() == {}


def test_the_board_has_the_columns_of_every_point() -> None:
    """A probe that only some points of the grid have is a column, too, and each once."""
    points = expand(SweepSpec(name="a", base=BASE, axes={"probe.knn": [0, 5], "probe.linear": [True]}))
    tags = board_metrics(points)
    assert {"probe/student/linear", "probe/student/knn"} <= set(tags)
    assert len(set(tags)) == len(tags)
