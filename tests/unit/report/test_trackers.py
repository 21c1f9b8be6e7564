"""Finished runs in other trackers: written and read back by their real clients, without a network."""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from wandb.proto.wandb_internal_pb2 import Record

from rt_scale.report.trackers import Tracker, export_to
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from tests.records import run_record, run_result

TRACKERS: tuple[Tracker, ...] = ("mlflow", "wandb")
PROBE, OTHER = "probe/student/linear", "probe/student/linear@cifar10"


@pytest.fixture
def sweeps(tmp_path: Path, point: Callable[..., Point]) -> list[SweepRuns]:
    """Two sweeps that share a finished run; another one is finished, one failed, one was never begun."""
    store = Store(tmp_path / "store")
    points = [point({"student.alpha": alpha}, seed=1) for alpha in (0.5, 1.0, 0.0, 0.25)]
    for number, each in enumerate(points[:3]):
        run = store.run(each.spec)
        with run.acquire():
            run.write_spec(each.spec)
            run.write_record(run_record({"host": "there"}))
            if number == 2:
                run.fail({"reason": "It diverged.", "time": 1.0})
                continue
            table = MetricsTable(run.metrics_path)
            for step in (0, 700):
                table.append(step, step / 350, {PROBE: 0.25 + step / 1000 + number, OTHER: float("nan")})
                table.append(step, step / 350, {"train/loss": 2.5 - number})
            table.flush()
            if number == 0:
                (run.path / "artifacts").mkdir()
                (run.path / "artifacts" / "plane.txt").write_text("flat")
            last = {PROBE: 0.95 + number, "train/loss": 2.5 - number}
            run.complete(run_result(last, name=run.name, steps=700, seconds=12.5))
    return [
        SweepRuns(SweepSpec(name=name, base={}), chosen, store)
        for name, chosen in (("alphas", points), ("again", points[:1]))
    ]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of this process connects to another machine; wandb's own service on this one is reached."""
    connect, elsewhere = socket.socket.connect, []

    def only_here(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            elsewhere.append(address)
            raise OSError("no network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.setenv("WANDB_MODE", "online")  # whatever the user's is
    yield
    assert elsewhere == []


@pytest.mark.usefixtures("no_network")
def test_mlflow_reads_what_was_written(sweeps: list[SweepRuns], tmp_path: Path) -> None:
    assert export_to("mlflow", sweeps, tmp_path / "out") == 2
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("alphas")
    assert client.get_experiment_by_name("again") is None
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    points = sweeps[0].points
    assert set(found) == {point.label for point in points[:2]}
    first, second = (found[point.label] for point in points[:2])
    assert first.info.status == "FINISHED"
    tags = {"run": points[0].spec.name, "sweep": "alphas, again", "label": points[0].label}
    assert tags.items() <= first.data.tags.items()
    assert second.data.tags["sweep"] == "alphas"
    assert (first.data.params["student.alpha"], second.data.params["student.alpha"]) == ("0.5", "1.0")
    assert first.data.params["seeds.data"] == "1"
    history = client.get_metric_history(first.info.run_id, PROBE)
    assert [(each.step, each.value) for each in history] == [(0, 0.25), (700, 0.95)]
    table = sweeps[0].store.run(points[0].spec)
    assert [each.value for each in client.get_metric_history(first.info.run_id, "epoch")] == [0.0, 2.0]
    assert history[0].timestamp == first.info.start_time > 1.7e12
    assert f"{PROBE}:cifar10" in first.data.metrics
    assert (first.data.metrics[f"last/{PROBE}"], second.data.metrics[f"last/{PROBE}"]) == (0.95, 1.95)
    assert (first.data.metrics["steps"], first.data.metrics["seconds"]) == (700, 12.5)
    files = {each.path for each in client.list_artifacts(first.info.run_id)}
    assert files == {"spec.json", "environment.json", "result.json", "artifacts"}
    assert [each.path for each in client.list_artifacts(first.info.run_id, "artifacts")] == ["artifacts/plane.txt"]
    (kept,) = tmp_path.glob(f"out/artifacts/alphas/{first.info.run_id}/artifacts/result.json")
    assert json.loads(kept.read_text()) == json.loads((table.path / "result.json").read_text())


@pytest.mark.usefixtures("no_network")
def test_wandb_reads_what_was_written(sweeps: list[SweepRuns], tmp_path: Path) -> None:
    assert export_to("wandb", sweeps, tmp_path / "out") == 2
    points = sweeps[0].points
    files = {
        record.run.run_id: path
        for path in tmp_path.glob("out/wandb/*/*.wandb")
        for record in records(path)
        if record.HasField("run")
    }
    assert set(files) == {point.spec.name for point in points[:2]}
    found = list(records(files[points[0].spec.name]))
    (run,) = (record.run for record in found if record.HasField("run"))
    assert (run.project, run.display_name, run.run_group) == ("alphas", points[0].label, "alphas")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["student"]["alpha"] == 0.5
    assert config["rt_scale"]["sweep"] == "alphas, again"
    history = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found if record.HasField("history")
    ]  # fmt: skip
    assert [(row["_step"], row[PROBE], row["train/loss"], row["epoch"]) for row in history] == [
        (0, 0.25, 2.5, 0.0), (700, 0.95, 2.5, 2.0),
    ]  # fmt: skip
    assert history[0]["time"] > 1.7e9
    summary: dict[str, Any] = {}
    for record in found:
        summary |= {"/".join(item.nested_key) or item.key: item.value_json for item in record.summary.update}
    assert json.loads(summary[f"last/{PROBE}"]) == 0.95
    assert json.loads(summary["seconds"]) == 12.5
    assert records_end(found) == 0


def records_end(found: list[Any]) -> int:
    """The exit code that is written last."""
    (code,) = (record.exit.exit_code for record in found if record.HasField("exit"))
    return int(code)


def records(path: Path) -> Iterator[Any]:
    """The records of wandb's file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    data, place, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place < len(data):
        if 32768 - place % 32768 < 7:  # too little for a header
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield Record.FromString(whole)
            whole = b""


@pytest.mark.parametrize("tracker", TRACKERS)
def test_what_cannot_be_written_is_refused(
    sweeps: list[SweepRuns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: Tracker
) -> None:
    with pytest.raises(InputError, match="not empty"):
        export_to(tracker, sweeps, tmp_path)
    unfinished = SweepRuns(sweeps[0].spec, sweeps[0].points[2:], sweeps[0].store)
    with pytest.raises(InputError, match="None of these runs is finished"):
        export_to(tracker, [unfinished], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(InputError, match=rf"pip install 'rt-scale\[{tracker}\]'"):
        export_to(tracker, sweeps, tmp_path / "out")
