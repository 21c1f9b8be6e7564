"""A run asked to stop at any moment leaves at once, loses no step, and ends bitwise as one that was left alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rt_scale.data.prepare import Prepared
from rt_scale.data.prepared import lock
from rt_scale.experiments import dependencies
from rt_scale.experiments.base import check_all
from rt_scale.experiments.batched import run_batched
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped, stop_check
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import RunResult
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]

MOMENTS = 7
EVERYTHING: dict[str, Any] = {"probe.logistic": True, "probe.ridge": True, "probe.statistics": True}
CASES: dict[str, dict[str, Any]] = {
    "frozen teacher": {"data.samples": 100},
    "an epoch behind, every probe": {
        "teacher": {"update": "previous_epoch", "statistics": "student"}, "encoder.norm": "batch", **EVERYTHING,
    },
    "average, probed within epochs": {
        "teacher": {"update": "ema", "momentum": 0.9, "center": 0.9}, "probe.every": "1it", "data.samples": 90,
    },
    "labels, another set": {
        "kind": "supervise", "projector.out_dim": 10, "probe.also": ["digits"], "data.samples": 80,
    },
}  # fmt: skip


class Asked:
    """Says that it is to stop from the n-th time on that it is asked."""

    def __init__(self, number: int | None = None) -> None:
        self.number, self.count = number, 0

    def __call__(self) -> bool:
        self.count += 1
        return self.number is not None and self.count >= self.number


def ended(run_dir: RunDir) -> tuple[dict[str, bytes], pa.Table, dict[str, Any]]:
    """Weights, metrics and result, without what says when."""
    result = run_dir.result()
    assert result is not None
    folder = run_dir.path / "checkpoints" / str(result.steps)
    weights = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    kept = result.model_dump(include={"last", "best", "steps", "epochs"})
    return weights, read_metrics(run_dir.metrics_path).drop_columns("time"), kept


@pytest.mark.parametrize("case", CASES)
def test_asked_at_any_moment_a_run_loses_no_step_and_ends_as_if_it_had_not_been(
    tiny: Tiny, settings: Make, tmp_path: Path, seen: Any, case: str
) -> None:
    spec = tiny(CASES[case])
    alone, asked = settings(store=Store(tmp_path / "alone")), Asked()
    run(spec, settings(store=alone.store, stop=asked))
    expected = ended(alone.store.run(spec))
    for number in range(2, asked.count + 1, asked.count // MOMENTS):
        seen.calls.clear()
        given = settings(store=Store(tmp_path / str(number)), stop=Asked(number), observer=seen)
        with pytest.raises(Stopped):
            run(spec, given)
        run_dir = given.store.run(spec)
        assert (run_dir.status().state, run_dir.failure()) == ("partial", None)
        done = [step for (step,) in seen.named("stepped")]
        begun = bool(seen.named("started"))
        assert run_dir.checkpoints.steps()[-1:] == (done[-1:] or ([0] if begun else run_dir.checkpoints.steps()[-1:]))
        run(spec, settings(store=given.store))
        assert ended(run_dir) == expected, number


def test_asked_again_in_the_evaluation_that_is_done_again(
    tiny: Tiny, settings: Make, tmp_path: Path, seen: Any
) -> None:
    spec = tiny({"teacher": {"update": "previous_epoch"}, "train.epochs": 1})
    alone = settings(store=Store(tmp_path / "alone"))
    run(spec, alone)
    given = settings(observer=seen)
    run_dir = given.store.run(spec)

    def in_the_last_evaluation() -> bool:
        return bool(seen.calls) and seen.calls[-1][0] == "stage" and (seen.named("stepped") or resumed) != []

    resumed: list[bool] = []
    for attempt in range(3):
        with pytest.raises(Stopped):
            run(spec, settings(observer=seen, stop=in_the_last_evaluation))
        assert run_dir.checkpoints.steps() == [0, 2]
        assert run_dir.status().attempts == attempt + 1
        resumed.append(True)
        seen.calls.clear()
    run(spec, given)
    assert seen.named("stepped") == []
    assert ended(run_dir) == ended(alone.store.run(spec))


def test_one_of_a_pack_that_is_asked_in_an_evaluation_leaves_the_others_to_go_on(
    tiny: Tiny, settings: Make, seen: Any
) -> None:
    specs = [tiny({"precision": "float64", "seeds.student": seed}) for seed in range(3)]

    def in_the_last_evaluation() -> bool:
        return len(seen.named("stepped")) == 4 and seen.calls[-1][0] == "stage"

    ends = run_batched(specs, [settings(), settings(stop=in_the_last_evaluation, observer=seen), settings()])
    assert [type(each) for each in ends] == [RunResult, Stopped, RunResult]
    run_dir = settings().store.run(specs[1])
    assert run_dir.checkpoints.steps()[-1] == 4  # the last evaluation alone is left to do
    (again,) = run_batched(specs[1:2], [settings()])
    assert isinstance(again, RunResult)
    assert isinstance(ends[0], RunResult)
    assert again.last.keys() == ends[0].last.keys()


def test_while_a_run_waits_for_the_one_that_it_starts_from(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny({"teacher.start_from": {"run": "same"}})
    stop: list[bool] = []
    monkeypatch.setattr(dependencies.time, "sleep", lambda seconds: stop.append(True))
    given = settings(stop=lambda: bool(stop))
    with given.store.run(spec.starts[0].run).acquire(), pytest.raises(Stopped):
        run(spec, given)
    assert stop == [True]
    assert given.store.run(spec).status().state == "partial"
    run(spec, settings())


def test_while_data_is_fetched_or_waited_for(
    tiny: Tiny, settings: Make, tmp_path: Path, colours: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(colours.folder, tmp_path / "origin" / "pets")
    monkeypatch.setenv("RT_SCALE_DATA_ORIGIN", str(tmp_path / "origin"))
    data_dir = tmp_path / "here"
    spec = tiny({"data": {"name": "pets"}})
    given = settings(data_dir=data_dir, stop=Asked(2))
    with pytest.raises(Stopped):
        run(spec, given)
    assert [path.name for path in data_dir.iterdir()] == [".pets.lock"]
    assert not given.store.root.exists()
    with pytest.raises(Stopped):
        check_all([spec], data_dir, stop_check(Asked(1)))
    asked = Asked(3)
    with lock("pets", data_dir, wait=False), pytest.raises(Stopped):
        run(spec, settings(data_dir=data_dir, stop=asked))
    assert asked.count == 3
    run(spec, settings(data_dir=data_dir))
