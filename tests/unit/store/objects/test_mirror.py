"""What the mirror of a machine shows of an object store in memory."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rt_scale.spec.errors import RunError
from rt_scale.store.gc import find_garbage, remove_garbage
from rt_scale.store.lease import Owner
from tests.records import run_record, run_result
from tests.unit.store.conftest import Watch
from tests.unit.store.machines import FakeSpec, begin, read, send, stop_waiting, weights
from tests.unit.store.objects.fake import Objects


def age(heartbeat: str) -> int:
    """Seconds, as a status tells them."""
    return int(heartbeat.removeprefix("last heartbeat ").removesuffix(" s ago"))


def test_what_one_machine_did_another_sees(objects: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    run, there = a.run(FakeSpec()), b.run(FakeSpec())
    with run.acquire():
        run.write_spec(FakeSpec())
        run.write_record(run_record({"host": "a"}))
        run.metrics_path.write_bytes(b"metrics")
        run.save_checkpoint(0, weights("zero"))
        send(run)
        assert there.status().state == "missing"
        there.refresh()
        status = there.status()
        assert (status.state, status.attempts) == ("running", 1)
        assert status.owner == run.status().owner
        assert 0 <= age(status.heartbeat) < 60  # by the clock of the server, which is two hours behind
        assert there.record() == run_record({"host": "a"})
        assert there.metrics_path.read_bytes() == b"metrics"
        run.save_checkpoint(5, weights("five"))
        run.prune([5])
        run.complete(run_result(steps=5))
    b.refresh()
    assert (there.status().state, b.status("distill-0").state, b.status("distill-0").attempts) == ("done", "done", 1)
    assert there.result() == run_result(steps=5)
    assert there.checkpoints.steps() == [5]
    assert not (there.path / "checkpoints" / "5" / "weights").exists()
    assert there.checkpoints.read(5, read) == "five"
    assert {path.name for path in (there.path / "checkpoints" / "5").iterdir()} == {"weights", "state", "manifest.json"}


def test_looking_leaves_the_folder_of_who_works_there_alone(objects: Objects, machine: Any) -> None:
    store = machine("a")
    run = store.run(FakeSpec())
    with run.acquire():
        run.write_spec(FakeSpec())
        (run.path / "events").write_text("not sent yet")
        store.refresh()
        store.run("distill-0").refresh()
        assert (run.path / "events").read_text() == "not sent yet"
        assert run.status().state == "running"
    store.refresh()
    assert (run.path / "events").read_text() == "not sent yet"  # by now sent
    assert run.status().state == "partial"


def test_looking_leaves_it_alone_even_where_another_has_taken_over(objects: Objects, machine: Any) -> None:
    """What works in the folder may be in the middle of a file."""
    store = machine("a")
    run = store.run(FakeSpec())
    with run.acquire():
        run.write_spec(FakeSpec())
        stop_waiting(objects)
        other = machine("b").run(FakeSpec())
        with other.acquire():
            other.write_record(run_record({"host": "b"}))
        (run.path / "events").write_text("at work")
        store.refresh()
        assert (run.path / "events").read_text() == "at work"
    store.refresh()
    assert not (run.path / "events").exists()
    assert store.run("distill-0").record() == run_record({"host": "b"})


def test_a_change_within_a_second_is_seen(objects: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    objects.clock = lambda: int(time.time()) // 3600 * 3600.0
    run = begin(a)
    with run.acquire():
        run.write_record(run_record({"threads": 1}))
        send(run)
        b.refresh()
        assert b.run("distill-0").record() == run_record({"threads": 1})
        objects.clock = lambda: time.time()
        run.write_record(run_record({"threads": 2}))
        send(run)
        b.refresh()
        run.write_record(run_record({"threads": 3}))
        send(run)
        b.refresh()
        assert b.run("distill-0").record() == run_record({"threads": 3})


def test_curves_are_brought_where_they_are_wanted(objects: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    run = a.run(FakeSpec())
    with run.acquire():
        run.metrics_path.write_bytes(b"m")
        (run.path / "events.out.tfevents.2-scalars").write_bytes(b"e")
        run.write_spec(FakeSpec())
    b.refresh(curves=False)
    assert {path.name for path in b.run("distill-0").path.iterdir()} == {"spec.json", "lease"}
    b.refresh(events=False)
    assert {path.name for path in b.run("distill-0").path.iterdir()} == {"spec.json", "lease", "metrics.parquet"}
    b.refresh()
    names = {path.name for path in b.run("distill-0").path.iterdir()}
    assert names == {"spec.json", "lease", "metrics.parquet", "events.out.tfevents.2-scalars"}
    asked = len(objects.asked)
    b.refresh(younger=60)
    assert len(objects.asked) == asked


def test_artifacts_are_kept_and_removed_as_they_are_elsewhere(objects: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    run = a.run(FakeSpec())
    with run.acquire():
        run.write_spec(FakeSpec())
        run.save_artifact("grid.npz", b"1")
        run.save_artifact("plane.png", b"2")
    assert {key for key in objects.contents if "artifacts" in key} == {
        f"runs/{run.name}/artifacts/grid.npz",
        f"runs/{run.name}/artifacts/plane.png",
    }
    there = b.run(FakeSpec()).artifacts
    b.refresh(curves=False)
    assert not there.exists()
    b.refresh()
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {"grid.npz": b"1", "plane.png": b"2"}
    again = b.run(FakeSpec())
    with again.acquire():
        again.save_artifact("grid.npz", b"3")
        (there / "plane.png").unlink()
        again.write_record(run_record({}))
    a.refresh()
    assert {path.name: path.read_bytes() for path in run.artifacts.iterdir()} == {"grid.npz": b"3"}


def test_what_is_there_already_is_not_asked_for_again(objects: Objects, machine: Any) -> None:
    begin(machine("a"), 4)
    for key, (data, _) in list(objects.contents.items()):
        objects.contents[key] = (data, 1000.0)
    b = machine("b")
    b.refresh()
    objects.asked.clear()
    b.refresh()
    assert objects.asked == [("list", "")]


def test_a_run_that_was_removed_elsewhere_is_gone_here(objects: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    begin(a, 4)
    b.refresh()
    assert b.names() == ["distill-0"]
    found = find_garbage(a)
    assert [(item.path.name, item.state) for item in found] == [("distill-0", "partial")]
    assert found[0].size == sum(len(data) for data, _ in objects.contents.values())
    assert remove_garbage(a, found) == {}
    assert objects.keys() == []
    assert a.names() == []
    b.refresh()
    assert b.names() == []


def test_a_run_that_is_at_work_stays(objects: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    begin(a, 4)
    b.refresh()
    found = find_garbage(b)
    run = a.run("distill-0")
    with run.acquire():
        assert list(remove_garbage(b, found).values()) == [
            "it was begun again, or a sweep or a run that was begun meanwhile needs it"
        ]
        assert b.remove(["distill-0"], 60.0) == {"distill-0": "it was begun again meanwhile"}
        run.check()


def test_sweeps(objects: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    a.sweep("s").write("name: s\n", ["distill-0"])
    report = a.sweep("s").report
    report.mkdir()
    (report / "tables.md").write_text("|")
    a.sweep("s").send(report)
    files = ("overrides.json", "report/tables.md", "runs.json", "sweep.yaml")
    assert objects.keys() == [f"sweeps/s/{name}" for name in files]
    b.refresh()
    (sweep,) = b.sweeps()
    assert (sweep.runs(), sweep.file.read_text()) == (["distill-0"], "name: s\n")
    begin(a)
    b.refresh()
    assert find_garbage(b) == []
    objects.contents.clear()
    b.refresh()
    assert b.sweep("s").runs() == []


def test_names_from_a_store_lead_nowhere_else(objects: Objects, machine: Any, tmp_path: Path) -> None:
    begin(machine("a"), 4)
    manifest = {"files": {name: {"size": 1, "sha256": "0"} for name in ("../../../../outside", "/tmp/outside")}}
    objects.write("runs/distill-0/checkpoints/4/manifest.json", json.dumps(manifest).encode())
    objects.write("outside", b"1")
    objects.write("runs/../../outside", b"1")
    b = machine("b")
    b.refresh()
    with pytest.raises(RunError, match="cannot be used"):
        b.run("distill-0").checkpoints.read(4, read)
    assert not [key for operation, key in objects.asked if operation == "get" and "outside" in key]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_an_owner_elsewhere_is_told_with_the_age_of_its_heartbeat(objects: Objects, machine: Any) -> None:
    begin(machine("a"))
    owner = {**Owner.current().__dict__, "host": "far", "machine": "far", "pid": 7}
    key = "runs/distill-0/lease/2.exclusive"
    objects.contents[f"{key}.claim"] = (json.dumps(owner).encode(), objects.clock() - 500)
    objects.contents[f"{key}.beat"] = (b"", objects.clock() - 70)
    b = machine("b")
    b.refresh()
    status = b.status("distill-0")
    assert (status.state, status.attempts, status.owner) == ("running", 2, "process 7 on host far")
    assert age(status.heartbeat) == pytest.approx(70, abs=5)
    objects.contents[f"{key}.beat"] = (b"", objects.clock() - 100)
    b.refresh()
    assert b.status("distill-0").state == "partial"


def test_a_heartbeat_in_the_future_is_told_of_and_ends_for_who_keeps_looking(
    objects: Objects, machine: Any, watch: Watch
) -> None:
    begin(machine("a"))
    owner = {**Owner.current().__dict__, "host": "far", "machine": "far", "pid": 7}
    key = "runs/distill-0/lease/2.exclusive"
    for what in ("claim", "beat"):
        objects.contents[f"{key}.{what}"] = (json.dumps(owner).encode(), objects.clock() + 1e6)
    b, states = machine("b"), []
    for _ in range(25):
        b.refresh()
        status = b.status("distill-0")
        states.append(status.state)
        watch.now += 5
    assert states.index("partial") == 90 / 5
    assert set(states[18:]) == {"partial"}
    c = machine("c")
    objects.contents[f"{key}.beat"] = (b"", objects.clock() + 2e6)
    c.refresh()
    status = c.status("distill-0")
    assert status.state == "running"
    assert "unknown age" in status.heartbeat
