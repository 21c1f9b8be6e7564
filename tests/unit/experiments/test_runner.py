from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rt_scale.data.beton import write
from rt_scale.data.prepare import Prepared, open_prepared
from rt_scale.experiments import runner, train
from rt_scale.experiments import train as training_run
from rt_scale.experiments.networks import set_record
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.probes.evaluator import Prober
from rt_scale.spec.errors import DeviceLost, InputError, RunError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from rt_scale.store import lease as lease_module
from rt_scale.store.atomic import to_json, write_bytes
from rt_scale.store.lease import Owner
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import DataRecord
from rt_scale.store.run_dir import RunDir
from rt_scale.training.checkpoint import Spent
from rt_scale.training.loop import Measured, Step, compute_gradients

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
DIVERGES = {"train.optimizer": {"name": "sgd", "lr": 1e30}}


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below the folder with its time of change and contents."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_a_result_says_what_came_out_of_what(tiny: Tiny, settings: Make, digits: Prepared) -> None:
    spec, given = tiny(), settings()
    result = run(spec, given)
    assert result == given.store.run(spec).result()
    assert json.loads((given.store.run(spec).path / "result.json").read_text()) == result.to_json()
    assert result.model_dump(include={"name", "steps", "epochs", "attempts"}) == {
        "name": spec.name,
        "steps": 4,
        "epochs": 2,
        "attempts": 1,
    }
    assert result.data == DataRecord(
        name="digits", title="Digits", sha256=digits.sha256, images=set_record(digits).images
    )
    assert result.seconds > 0
    assert result.device_seconds == {"cpu": result.seconds}
    probes = ("linear", "knn", "linear_standardized", "knn_standardized")
    assert set(result.best) == {f"probe/student/{probe}" for probe in probes}
    training = {"loss", "kl", "grad_norm", "teacher_entropy", "student_entropy"}
    assert set(result.last) == (
        {f"probe/{role}/{probe}" for role in ("student", "teacher", "input") for probe in probes}
        | {f"train/{name}" for name in training}
        | {"distance/from_init", "distance/from_teacher"}
    )


def test_freed_memory_is_kept_while_a_run_probes_and_until_it_ends(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    @contextmanager
    def keep() -> Iterator[None]:
        told.append("kept")
        yield
        told.append("given back")

    probe = Prober.probe_features
    monkeypatch.setattr(Prober, "probe_features", lambda self, *of: told.append("probed") or probe(self, *of))
    monkeypatch.setattr(runner, "keep_freed_memory", keep)
    run(tiny(), settings())
    assert told == ["kept", *["probed"] * 5, "given back"]  # input, teacher, and the student three times


def test_a_run_records_its_spec_and_where_it_was_executed(
    tiny: Tiny, settings: Make, digits: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    spec, given = tiny(), settings(threads=2, cache_teacher=False, loader="map")
    run(spec, given)
    run_dir = given.store.run(spec)
    assert run_dir.spec() == spec.canonical()
    environment = run_dir.record()
    assert environment is not None
    assert environment.execution.to_json() == {
        "device": "cpu",
        "threads": 2,
        "cache_teacher": False,
        "channels_last": True,
        "loader": "map",
        "loader_reason": "asked for",
        "workers": 1,
        "gpus": 0.0,
        "pack": 1,
        "accelerate": "none",
    }
    assert environment.data.sha256 == digits.sha256
    (attempt,) = environment.attempts
    assert attempt.versions["torch"] == importlib.metadata.version("torch")
    assert [attempt.threads] == used == [2]
    assert attempt.workers == 1
    assert run_dir.checkpoints.steps() == [0, 2, 4]
    assert (run_dir.path / "checkpoints" / "0" / "teacher.safetensors").is_file()


def test_a_finished_run_is_returned_and_nothing_is_touched(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings()
    first = run(tiny(), given)
    before = files(given.store.root)

    def refuse(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(train, "TrainingRun", refuse)
    assert run(tiny(), settings(threads=2)) == first
    assert files(given.store.root) == before


def test_the_same_spec_in_two_stores_gives_the_same_numbers(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    tables = []
    for name in ("one", "two"):
        given = settings(store=type(settings().store)(tmp_path / name))
        run(tiny(), given)
        run_dir = given.store.run(tiny())
        weights = (run_dir.path / "checkpoints" / "4" / "student.safetensors").read_bytes()
        tables.append((read_metrics(run_dir.metrics_path).drop_columns("time"), weights))
    assert tables[0] == tables[1]


def other_digits(folder: Path, digits: Prepared) -> Path:
    """A data folder whose digits have one pixel changed."""
    open_prepared("digits", folder)
    images = digits.train.read_all()
    images[0, 0, 0, 0] ^= 1
    write(folder / "digits" / "train.beton", [images], digits.train.labels, image_shape=digits.train.image_shape)
    meta = json.loads((folder / "digits" / "meta.json").read_text())
    meta["sha256"]["train.beton"] = "0" * 64
    (folder / "digits" / "meta.json").write_text(json.dumps(meta))
    return folder


def test_data_with_other_contents_are_refused(tiny: Tiny, settings: Make, tmp_path: Path, digits: Prepared) -> None:
    given = settings()
    result = run(tiny(), given)
    other = settings(data_dir=other_digits(tmp_path / "other", digits))
    with pytest.raises(InputError, match=rf"sha256 {digits.sha256[:12]}\.\.\..*another name, or use another store"):
        run(tiny(), other)
    assert given.store.run(tiny()).result() == result


def test_data_of_the_runs_that_it_starts_from_are_recorded_and_looked_at(
    tiny: Tiny, settings: Make, tmp_path: Path, digits: Prepared
) -> None:
    folder = tmp_path / "sets"
    open_prepared("digits", folder)
    shutil.copytree(folder / "digits", folder / "copies")
    meta = json.loads((folder / "copies" / "meta.json").read_text())
    meta["info"] |= {"name": "copies", "title": "Copies"}
    (folder / "copies" / "meta.json").write_text(json.dumps(meta))
    on_digits = {"same_but": {"data": {"name": "digits", "samples": 60}}}
    spec = tiny({"data.name": "copies", "teacher.start_from": {"run": on_digits}})
    first, given = spec.starts[0].run, settings(data_dir=folder)
    result = run(spec, given)
    starts = {
        first.name: DataRecord(name="digits", title="Digits", sha256=digits.sha256, images=set_record(digits).images)
    }
    images = set_record(digits).images
    assert result.data == DataRecord(name="copies", title="Copies", sha256=digits.sha256, images=images, starts=starts)
    environment = given.store.run(spec).record()
    assert environment is not None
    assert environment.data == result.data
    other_digits(folder, digits)
    with pytest.raises(InputError, match=rf"Run {first.name} was computed on a data set 'digits' with other contents"):
        run(spec, given)


def test_device_time_is_cores_times_wall_time(tiny: Tiny, settings: Make) -> None:
    result = run(tiny(), settings(threads=2))
    assert result.device_seconds == {"cpu": pytest.approx(2 * result.seconds, abs=0.002)}


def test_what_earlier_attempts_took_counts(
    tiny: Tiny, settings: Make, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        run(tiny(), settings(observer=seen, stop=lambda: bool(seen.named("stepped"))))
    load = training_run.load_training

    def long_ago(*given: Any) -> Any:
        return load(*given)[0], Spent(1000.0, {"gpu": 500.0})

    monkeypatch.setattr(training_run, "load_training", long_ago)
    result = run(tiny(), settings())
    assert result.seconds > 1000
    assert result.device_seconds == {"gpu": 500.0, "cpu": pytest.approx(result.seconds - 1000.0, abs=0.002)}


def test_an_unfinished_run_does_not_go_on_with_other_data(
    tiny: Tiny, settings: Make, tmp_path: Path, digits: Prepared
) -> None:
    spec = tiny(DIVERGES)
    with pytest.raises(RunError):
        run(spec, settings())
    with pytest.raises(InputError, match="other contents"):
        run(spec, settings(data_dir=other_digits(tmp_path / "other", digits)))


def test_divergence_is_a_failure_with_its_reason_and_keeps_what_was_computed(
    tiny: Tiny, settings: Make, seen: Any
) -> None:
    given = settings()
    kept = run(tiny(), given)
    spec = tiny(DIVERGES)
    with pytest.raises(RunError, match=r"diverged\. Lower train\.optimizer\.lr") as caught:
        run(spec, settings(observer=seen))
    run_dir = given.store.run(spec)
    failure = run_dir.failure()
    assert failure is not None
    assert failure["reason"] == str(caught.value)
    assert f" in {run_dir.metrics_path}; " in failure["reason"]
    assert f"'rt-scale board {spec.name} --store {given.store.place} --open'" in failure["reason"]
    assert "Diverged" in failure["traceback"]
    assert (run_dir.status().state, run_dir.status().attempts) == ("failed", 1)
    assert run_dir.checkpoints.steps() == [0]
    assert table_names(run_dir) == logged_names(seen) != []
    assert given.store.run(tiny()).result() == kept


def logged_names(seen: Any) -> list[tuple[int, str]]:
    return [(step, name) for step, _, values in seen.named("logged") for name in values]


def table_names(run_dir: RunDir) -> list[tuple[int, str]]:
    table = read_metrics(run_dir.metrics_path).to_pydict()
    return list(zip(table["step"], table["name"], strict=True))


def test_a_failure_keeps_the_numbers_since_the_last_checkpoint(
    tiny: Tiny, settings: Make, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_in_second_epoch(step: int) -> None:
        if step == 3:
            raise RuntimeError("boom")

    monkeypatch.setattr(seen, "stepped", fail_in_second_epoch)
    spec, given = tiny({"probe.every": None}), settings(observer=seen)
    with pytest.raises(RunError, match="boom"):
        run(spec, given)
    run_dir = given.store.run(spec)
    assert run_dir.checkpoints.steps() == [0]
    assert (2, "train/loss") in table_names(run_dir)
    assert table_names(run_dir) == logged_names(seen)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), r"ran out of memory \(CUDA out of memory. Tried\)"),
        (MemoryError(), r"ran out of memory \(MemoryError\)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "ran out of memory"),
        (KeyError("weird"), "failed: KeyError: 'weird'. The traceback is in its failure.json"),
        (RunError("The disk is full."), "^The disk is full.$"),
    ],
)
def test_failures_are_told_in_words_and_recorded(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(train, "TrainingRun", fail)
    given = settings()
    with pytest.raises(RunError, match=message) as caught:
        run(tiny(), given)
    failure = given.store.run(tiny()).failure()
    assert failure is not None
    assert failure["reason"] == str(caught.value)
    monkeypatch.undo()
    assert run(tiny(), given).attempts == 2
    assert given.store.run(tiny()).failure() is None


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be",
        "CUDA error: unspecified launch failure",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    ],
)
def test_a_gpu_that_failed_is_no_failure_of_the_run(tiny: Tiny, settings: Make, text: str) -> None:
    def fail(step: Step) -> Measured:
        if step.number == 3:
            raise RuntimeError(text)
        return compute_gradients(step)

    given = settings(gradients=fail)
    with pytest.raises(DeviceLost, match=r"lost its GPU \(CUDA error: [^\n]*\)"):
        run(tiny(), given)
    run_dir = given.store.run(tiny())
    assert (run_dir.failure(), run_dir.status().state) == (None, "partial")
    assert run(tiny(), settings()).attempts == 2


def test_an_error_of_the_student_s_pass_is_the_run_s_failure(tiny: Tiny, settings: Make) -> None:
    def fail(step: Step) -> Measured:
        if step.number == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return compute_gradients(step)

    given = settings(gradients=fail)
    with pytest.raises(RunError, match="ran out of memory"):
        run(tiny(), given)
    run_dir = given.store.run(tiny())
    failure = run_dir.failure()
    assert failure is not None
    assert "Lower train.batch_size" in failure["reason"]
    assert "in fail" in failure["traceback"]
    assert (run_dir.status().state, run_dir.checkpoints.steps()) == ("failed", [0, 2])
    assert run(tiny(), settings()).attempts == 2


def test_a_run_that_is_stopped_is_partial_not_failed(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "TrainingRun", stop)
    given = settings()
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), given)
    assert given.store.run(tiny()).status().state == "partial"


def test_a_run_in_use_is_refused(tiny: Tiny, settings: Make) -> None:
    given = settings()
    with given.store.run(tiny()).acquire(), pytest.raises(InputError, match=f"in use: process {os.getpid()} on host"):
        run(tiny(), given)


@pytest.fixture
def silent(tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's lease, held by a process elsewhere that is silent; whoever watches it does not really wait."""
    folder = settings().store.run(tiny()).path / lease_module.FOLDER
    owner = dataclasses.replace(Owner.current(), host="node7", machine="another boot")
    write_bytes(folder / "1.json", to_json(dataclasses.asdict(owner)))
    os.utime(folder / "1.json", (time.time() - 100,) * 2)
    now = [0.0]
    monkeypatch.setattr(lease_module, "_clock", lambda: now[0])
    monkeypatch.setattr(lease_module, "_pause", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return folder


def test_an_owner_who_may_be_gone_is_watched_and_that_is_told(
    tiny: Tiny, settings: Make, seen: Any, silent: Path
) -> None:
    result = run(tiny(), settings(observer=seen))
    assert result.attempts == 2
    assert "watching whether the run is still executed by process" in seen.named("stage")[0][0]


def test_a_stop_is_noticed_while_an_owner_is_watched(tiny: Tiny, settings: Make, silent: Path) -> None:
    with pytest.raises(Stopped):
        run(tiny(), settings(stop=lambda: True))
    assert os.listdir(silent) == ["1.json"]


@pytest.mark.parametrize("changes", [{"device": "cuda:99"}, {"threads": 0}])
def test_what_cannot_be_done_here_leaves_nothing_behind(tiny: Tiny, settings: Make, changes: dict[str, Any]) -> None:
    given = settings(**changes)
    with pytest.raises(InputError):
        run(tiny(), given)
    assert not given.store.root.exists()


def test_the_store_decides_where_a_run_is_kept(tiny: Tiny, settings: Make) -> None:
    given = settings()
    run(tiny(), given)
    assert [found.name for found in given.store] == [tiny().name]
    assert isinstance(given.store.run(tiny()), RunDir)
