"""What a driver decides; what runs through a real Ray is in tests/integration/test_sweep.py."""

from __future__ import annotations

import contextlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rt_scale.launch import sweep as module
from rt_scale.launch.sweep import board_metrics, finished_runs, reason, run_sweep
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec, Point, SweepSpec, expand
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

    def run_points(todo: list[Point], launch: Any, *, store: str, **more: Any) -> dict[str, str]:
        calls.append({"todo": todo, "launch": launch, "store": store, **more})
        finish(Store.open(store), todo[0])
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
    sweep = changes.pop("sweep", SWEEP)
    return run_sweep(sweep, points, "name: small\n", **{**given, **changes}), views


def test_a_driver_runs_what_is_not_finished(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any]
) -> None:
    finish(store, points[1])
    outcome, views = go(points, store, tmp_path, device="cpu", concurrency=3)
    (call,) = launched
    assert call["todo"] == [points[0], points[2]]
    assert (call["launch"], call["store"], call["device"]) == (SWEEP.launch, store.place, "cpu")
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


@pytest.mark.parametrize("within", [False, True])
def test_tf32_on_a_cpu_is_refused_before_anything_starts(
    store: Store, tmp_path: Path, launched: list[Any], monkeypatch: pytest.MonkeyPatch, within: bool
) -> None:
    """Of the runs themselves, and of those to be computed before them."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    tf32 = {"precision": "tf32"}
    base = {**BASE, "teacher": {"start_from": {"run": {"same_but": tf32}}}} if within else BASE | tf32
    points = expand(SweepSpec(name="small", base=base))
    for device in ("auto", "cpu"):
        with pytest.raises(InputError, match="tf32"):
            go(points, store, tmp_path, device=device)
    assert launched == []
    assert not (store.root / "sweeps").exists()
    if within:  # a result that is there was computed elsewhere
        (start,) = points[0].spec.starts
        finish(store, Point({}, 0, start.run))
        go(points, store, tmp_path)
        assert len(launched) == 1


def test_ffcv_that_is_not_there_is_refused_before_anything_starts(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    asked = SWEEP.model_copy(update={"launch": LaunchSpec(loader="ffcv")})
    with pytest.raises(InputError, match="FFCV is not installed"):
        go(points, store, tmp_path, sweep=asked)
    assert launched == []
    assert not (store.root / "sweeps").exists()
    go(points, store, tmp_path)
    assert len(launched) == 1


def test_a_driver_imports_no_torch() -> None:
    code = "import sys, rt_scale.launch.sweep; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


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


@pytest.mark.parametrize("data", [{"name": "gaussian", "size": 8, "samples": 60}, {"name": "stl10_unlabeled"}])
def test_a_set_without_labels_has_no_columns_of_its_own_and_a_grid_with_others_has(data: dict[str, Any]) -> None:
    base = {**BASE, "data": data, "probe": {"also": ["stl10", "digits"]}}
    tags = board_metrics(expand(SweepSpec(name="a", base=base)))
    assert {tag.partition("/")[0] for tag in tags} == {"probe@stl10", "probe@digits", "train", "distance"}
    images = {**base, "data": {"name": "my_own"}}
    mixed = [point for each in (base, images) for point in expand(SweepSpec(name="a", base=each))]
    assert "probe/student/linear" in board_metrics(mixed)


def test_the_board_has_the_columns_of_every_point() -> None:
    """A probe that only some points of the grid have is a column, too, and each once."""
    points = expand(SweepSpec(name="a", base=BASE, axes={"probe.knn": [0, 5], "probe.linear": [True]}))
    tags = board_metrics(points)
    assert {"probe/student/linear", "probe/student/knn"} <= set(tags)
    assert len(set(tags)) == len(tags)
