"""result.json and environment.json: what is written is what is read, and what cannot be read is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.spec.errors import RunError
from rt_scale.store.results import RunRecord, RunResult
from rt_scale.store.run_dir import ENVIRONMENT, RESULT, RunDir
from tests.records import DATA, run_record, run_result


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "distill-0")


def put(run: RunDir, name: str, value: Any) -> None:
    run.path.mkdir(exist_ok=True)
    (run.path / name).write_text(json.dumps(value))


def test_what_is_written_is_read(run: RunDir) -> None:
    data = {**DATA, "also": {"stl10": {"title": "STL-10", "sha256": "1"}}, "starts": {"distill-1": DATA}}
    best = {"b": {"value": 0.5, "epoch": 1.5, "step": 3}}
    result = run_result({"a": 0.1, "b": float("inf")}, best=best, data=data, device_seconds={"cpu": 2.0})
    packing = {"size": 2, "seconds": {1: 0.5, 2: 0.25}}
    record = run_record({"host": "a", "packing": packing}, execution={"workers": 2}, data=data)
    with run.acquire():
        run.write_record(record)
        run.complete(result)
    assert (run.result(), run.record()) == (result, record)
    written = json.loads((run.path / RESULT).read_text())
    assert (written["version"], list(written)[-1]) == (1, "data")  # where experiments.other_data looks for it
    assert list(dict(result.data.sets())) == ["digits", "stl10"]


def test_what_earlier_versions_did_not_write_has_its_default_and_what_they_did_is_kept(run: RunDir) -> None:
    result, record = run_result().to_json(), run_record({"host": "a", "kernels": "old"}).to_json()
    for key in ("version", "device_seconds"):
        del result[key]
    del record["version"]
    record["execution"] = {
        "device": "cpu", "threads": 2, "cache_teacher": True, "channels_last": True, "loader": "map", "wide": "torch",
        "student_pass": "compiled",
    }  # fmt: skip
    record["attempts"] = [{"host": "a", "kernels": "old"}]
    put(run, RESULT, result)
    put(run, ENVIRONMENT, record)
    assert run.result() == run_result()
    found = run.record()
    assert found is not None
    assert (found.execution.workers, found.execution.pack, found.execution.accelerate) == (1, 1, "compile")
    kept = found.to_json()
    assert (kept["execution"]["wide"], kept["attempts"][0]["kernels"]) == ("torch", "old")


@pytest.mark.parametrize("recorded", ["tensorrt", ["eager"], None])
def test_a_pass_of_no_version_is_not_taken_for_none(run: RunDir, recorded: Any) -> None:
    record = run_record({"host": "a"}).to_json()
    del record["execution"]["accelerate"]
    put(run, ENVIRONMENT, record)
    assert run.record() is not None
    record["execution"]["student_pass"] = recorded
    put(run, ENVIRONMENT, record)
    with pytest.raises(RunError, match="student_pass"):
        run.record()


@pytest.mark.parametrize(
    ("name", "read"), [(RESULT, RunDir.result), (ENVIRONMENT, RunDir.record)], ids=["result", "environment"]
)
@pytest.mark.parametrize("value", [[], {}, {"version": 2}, {"last": {"a": "high"}, "execution": 3}])
def test_a_file_of_another_form_is_named(
    run: RunDir, name: str, read: Callable[[RunDir], RunResult | RunRecord | None], value: Any
) -> None:
    put(run, name, value)
    with pytest.raises(RunError, match=rf"'.*{name}' is not a {name} that this version .* can read .*Restore a copy"):
        read(run)
