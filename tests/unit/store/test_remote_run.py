"""Runs of an object store in memory, from the mirrors of two machines."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rt_scale.spec.errors import InputError, RunError, StoreAway
from rt_scale.store import remote_lease, remote_run
from rt_scale.store.garbage import find_garbage, remove_garbage
from rt_scale.store.lease import Owner
from rt_scale.store.remote import RemoteStore
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.unit.store.objects import Objects


@dataclass(frozen=True)
class FakeSpec:
    values: dict[str, Any] = field(default_factory=lambda: {"alpha": 0.5})
    name: str = "distill-0"

    def canonical(self) -> dict[str, Any]:
        return self.values


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lease, "SETTLING", 0.02)
    monkeypatch.setattr(remote_lease, "RESOLUTION", 0.0)


@pytest.fixture
def objects() -> Objects:
    return Objects(lambda: time.time() - 7200)


@pytest.fixture
def machine(objects: Objects, tmp_path: Path) -> Callable[[str], Store]:
    """The store as a machine of that name sees it."""

    def see(name: str) -> Store:
        return Store(tmp_path / name, RemoteStore(objects.bucket(), tmp_path / name))

    return see


def weights(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)
        (folder / "state").write_text(text)

    return write


def read(folder: Path) -> str:
    return (folder / "weights").read_text()


def begin(store: Store, *steps: int, name: str = "distill-0") -> RunDir:
    """A run that was begun, with checkpoints, and left."""
    run = store.run(FakeSpec(name=name))
    with run.acquire():
        run.write_spec(FakeSpec(name=name))
        for step in steps:
            run.save_checkpoint(step, weights(f"{name} {step}"))
    return run


def puts(objects: Objects) -> list[str]:
    start = "bucket/store/runs/distill-0/"
    return [key.removeprefix(start) for operation, key in objects.asked if operation == "put" and "/lease/" not in key]


def test_what_one_machine_did_another_sees(objects: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    run, there = a.run(FakeSpec()), b.run(FakeSpec())
    with run.acquire():
        run.write_spec(FakeSpec())
        run.write_environment({"host": "a"})
        run.metrics_path.write_bytes(b"metrics")
        run.save_checkpoint(0, weights("zero"))
        assert there.status().state == "missing"
        there.refresh()
        status = there.status()
        assert (status.state, status.attempts) == ("running", 1)
        assert status.owner == run.status().owner
        assert status.heartbeat_age is not None
        assert status.heartbeat_age < 60  # by the clock of the server, which is two hours behind
        assert there.environment() == {"host": "a"}
        assert there.metrics_path.read_bytes() == b"metrics"
        run.save_checkpoint(5, weights("five"))
        run.prune([5])
        run.complete({"steps": 5})
    b.refresh()
    assert (there.status().state, b.status("distill-0").state, b.status("distill-0").attempts) == ("done", "done", 1)
    assert there.result() == {"steps": 5}
    assert there.checkpoints.steps() == [5]
    assert not (there.path / "checkpoints" / "5" / "weights").exists()
    assert there.checkpoints.read(5, read) == "five"
    assert {path.name for path in (there.path / "checkpoints" / "5").iterdir()} == {"weights", "state", "manifest.json"}


def test_the_order_keeps_the_meaning(objects: Objects, machine: Any) -> None:
    run = machine("a").run(FakeSpec())
    with run.acquire():
        run.write_spec(FakeSpec())
        run.save_checkpoint(3, weights("x"))
        (run.path / "events").write_text("curve")
        run.complete({"steps": 3})
        (run.path / "events").write_text("curve, end")
    spec, *files = puts(objects)
    assert spec == "spec.json"
    assert set(files[:2]) == {"checkpoints/3/weights", "checkpoints/3/state"}
    assert files[2:] == ["checkpoints/3/manifest.json", "events", "result.json", "events"]
    assert objects.contents["bucket/store/runs/distill-0/events"][0] == b"curve, end"
    objects.asked.clear()
    other = machine("b").run("distill-0")
    with other.acquire():
        other.prune([])
    deleted = [key.rpartition("distill-0/")[2] for operation, key in objects.asked if operation == "delete"]
    assert deleted == ["checkpoints/3/manifest.json", "checkpoints/3"]


def test_a_result_is_here_only_when_it_is_there(objects: Objects, machine: Any) -> None:
    run = machine("a").run(FakeSpec())
    with run.acquire():
        run.write_spec(FakeSpec())

        def away(operation: str, key: str) -> None:
            if key.endswith("result.json"):
                raise OSError("away")

        objects.before = away
        with pytest.raises(StoreAway, match="in this machine's mirror"):
            run.complete({})
        assert run.result() is None
        objects.before = lambda operation, key: None
        run.complete({"steps": 1})
    assert run.result() == {"steps": 1}


def test_another_machine_goes_on(objects: Objects, machine: Any) -> None:
    begin(machine("a"), 0, 4, 8)
    b = machine("b").run(FakeSpec())
    with b.acquire() as lease:
        assert lease.attempt == 2
        assert b.spec() == FakeSpec().canonical()
        assert b.latest_checkpoint(read, print) == (8, "distill-0 8")
        assert not (b.path / "checkpoints" / "4" / "weights").exists()
        b.save_checkpoint(12, weights("twelve"))
        b.prune([0, 8, 12])
    a = machine("a").run(FakeSpec())
    with a.acquire():
        assert a.checkpoints.steps() == [0, 8, 12]
        assert a.latest_checkpoint(read, print) == (12, "twelve")


def test_a_checkpoint_without_manifest_does_not_exist(objects: Objects, machine: Any) -> None:
    """Killed while it was sent, or while it was removed."""
    begin(machine("a"), 4)
    objects.put("bucket/store/runs/distill-0/checkpoints/8/weights", b"half")
    b = machine("b").run(FakeSpec())
    with b.acquire():
        assert b.latest_checkpoint(read, print) == (4, "distill-0 4")
        b.prune([4])
    assert not objects.keys("runs/distill-0/checkpoints/8")


def test_a_damaged_object_is_told_and_the_one_before_is_taken(objects: Objects, machine: Any) -> None:
    begin(machine("a"), 4, 8)
    objects.put("bucket/store/runs/distill-0/checkpoints/8/weights", b"diztill-0 8")
    told: list[str] = []
    b = machine("b").run(FakeSpec())
    with b.acquire():
        assert b.latest_checkpoint(read, told.append) == (4, "distill-0 4")
        b.prune([4])
    assert "weights has another checksum than when it was written" in told[0]
    assert not objects.keys("runs/distill-0/checkpoints/8")
    del objects.contents["bucket/store/runs/distill-0/checkpoints/4/state"]
    with pytest.raises(RunError, match="state is missing"):
        machine("c").run("distill-0").checkpoints.read(4, read)


def test_a_file_that_is_damaged_here_is_brought_again(objects: Objects, machine: Any) -> None:
    run = begin(machine("a"), 4)
    (run.path / "checkpoints" / "4" / "weights").write_text("damaged")
    assert run.checkpoints.read(4, read) == "distill-0 4"


def away(operation: str, key: str) -> None:
    raise OSError("away")


def test_what_could_not_be_sent_is_sent_by_the_next_attempt_here(objects: Objects, machine: Any) -> None:
    a = machine("a").run(FakeSpec())
    with a.acquire():
        a.write_spec(FakeSpec())
        objects.before = away
        a.metrics_path.write_bytes(b"eight")
        with pytest.raises(StoreAway):
            a.save_checkpoint(8, weights("eight"))
        a.fail({"reason": "the store is away"})
    objects.before = lambda operation, key: None
    assert a.checkpoints.steps() == [8]
    again = machine("a")
    again.refresh()  # it does not take the store's word for a folder that is ahead
    run = again.run(FakeSpec())
    assert (run.checkpoints.steps(), run.metrics_path.read_bytes()) == ([8], b"eight")
    stop_waiting(objects)
    with run.acquire() as lease:
        assert (lease.attempt, run.latest_checkpoint(read, print)) == (2, (8, "eight"))
        run.write_environment({})
    b = machine("b").run("distill-0")
    b.refresh()
    assert (b.checkpoints.read(8, read), b.metrics_path.read_bytes()) == ("eight", b"eight")
    assert (b.failure() or {})["reason"] == "the store is away"


def stop_waiting(objects: Objects) -> None:
    """Let the owner of an attempt be a process that is gone."""
    for key, (data, date) in list(objects.contents.items()):
        if key.endswith(".claim"):
            objects.contents[key] = (json.dumps({**json.loads(data), "pid": 2**22 + 1}).encode(), date)


def test_what_was_overtaken_is_not_kept(objects: Objects, machine: Any) -> None:
    a = machine("a").run(FakeSpec())
    with a.acquire():
        a.write_spec(FakeSpec())
        a.save_checkpoint(4, weights("four"))
        objects.before = away
        with pytest.raises(StoreAway):
            a.save_checkpoint(8, weights("eight of a"))
    objects.before = lambda operation, key: None
    stop_waiting(objects)
    b = machine("b").run(FakeSpec())
    with b.acquire():
        assert b.latest_checkpoint(read, print) == (4, "four")
        b.save_checkpoint(6, weights("six of b"))
    a.refresh()
    assert a.checkpoints.steps() == [4, 6]
    with a.acquire():
        assert a.latest_checkpoint(read, print) == (6, "six of b")


def test_a_takeover_stops_who_had_it(objects: Objects, machine: Any) -> None:
    a, b = machine("a").run(FakeSpec()), machine("b").run(FakeSpec())
    with a.acquire():
        a.write_spec(FakeSpec())
        stop_waiting(objects)
        with b.acquire():
            with pytest.raises(RunError, match="no longer owns"):
                a.save_checkpoint(3, weights("x"))
            with pytest.raises(RunError, match="no longer owns"):
                a.complete({})
            b.write_environment({"host": "b"})
    assert not objects.keys("runs/distill-0/checkpoints")
    b.refresh()
    assert (b.status().state, b.status().attempts) == ("partial", 2)


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
            other.write_environment({"host": "b"})
        (run.path / "events").write_text("at work")
        store.refresh()
        assert (run.path / "events").read_text() == "at work"
    store.refresh()
    assert not (run.path / "events").exists()
    assert store.run("distill-0").environment() == {"host": "b"}


def test_a_folder_is_ahead_only_until_all_is_sent(objects: Objects, machine: Any) -> None:
    store = machine("a")
    run = begin(store, 4)
    assert [path.suffix for path in (store.root / ".mirror").iterdir()] == [".lock"]
    (run.path / "spec.json").unlink()
    store.refresh()
    assert run.spec() == FakeSpec().canonical()


def test_a_process_that_lost_the_run_and_works_on_in_this_folder(
    objects: Objects, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_run, "_WAIT", 0.05)
    first, second = machine("a").run(FakeSpec()), machine("a").run(FakeSpec())
    with first.acquire():
        stop_waiting(objects)
        with pytest.raises(InputError, match="is in use by a process that does not own the run any more"):
            second.acquire()
    with second.acquire() as lease:
        assert lease.attempt == 3


def test_a_change_within_a_second_is_seen(objects: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    objects.clock = lambda: int(time.time()) // 3600 * 3600.0
    run = begin(a)
    with run.acquire():
        run.write_environment({"n": 1})
        b.refresh()
        assert b.run("distill-0").environment() == {"n": 1}
        objects.clock = lambda: time.time()
        run.write_environment({"n": 2})
        b.refresh()
        run.write_environment({"n": 3})
        b.refresh()
        assert b.run("distill-0").environment() == {"n": 3}


def test_curves_are_brought_where_they_are_wanted(objects: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    run = a.run(FakeSpec())
    with run.acquire():
        run.metrics_path.write_bytes(b"m")
        (run.path / "events.out.tfevents.2-scalars").write_bytes(b"e")
        run.write_spec(FakeSpec())
    b.refresh(curves=False)
    assert {path.name for path in b.run("distill-0").path.iterdir()} == {"spec.json", "lease"}
    b.refresh()
    names = {path.name for path in b.run("distill-0").path.iterdir()}
    assert names == {"spec.json", "lease", "metrics.parquet", "events.out.tfevents.2-scalars"}
    asked = len(objects.asked)
    b.refresh(younger=60)
    assert len(objects.asked) == asked


def test_what_is_there_already_is_not_asked_for_again(objects: Objects, machine: Any) -> None:
    begin(machine("a"), 4)
    for key, (data, _) in list(objects.contents.items()):
        objects.contents[key] = (data, 1000.0)
    b = machine("b")
    b.refresh()
    objects.asked.clear()
    b.refresh()
    assert objects.asked == [("list", "bucket/store")]


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
        assert b.remote.remove(["distill-0"], 60.0) == [False]
        run.check()


def test_sweeps(objects: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    a.sweep("s").write("name: s\n", ["distill-0"])
    report = a.sweep("s").report
    report.mkdir()
    (report / "tables.md").write_text("|")
    a.sweep("s").send(report)
    assert objects.keys() == ["sweeps/s/report/tables.md", "sweeps/s/runs.json", "sweeps/s/sweep.yaml"]
    b.refresh()
    (sweep,) = b.sweeps()
    assert (sweep.runs(), sweep.file.read_text()) == (["distill-0"], "name: s\n")
    begin(a)
    b.refresh()
    assert find_garbage(b) == []
    objects.contents.clear()
    b.refresh()
    assert b.sweep("s").runs() == []


def test_a_store_that_cannot_be_written_is_found_before_any_work(objects: Objects, machine: Any) -> None:
    def refuse(operation: str, key: str) -> None:
        if operation == "put":
            raise OSError("AWS Error ACCESS_DENIED during PutObject operation")

    machine("a").check_writable()
    assert objects.keys() == []
    objects.before = refuse
    with pytest.raises(InputError, match="refuses to write"):
        machine("a").check_writable()


def test_names_from_a_store_lead_nowhere_else(objects: Objects, machine: Any, tmp_path: Path) -> None:
    begin(machine("a"), 4)
    manifest = {"files": {name: {"size": 1, "sha256": "0"} for name in ("../../../../outside", "/tmp/outside")}}
    objects.put("bucket/store/runs/distill-0/checkpoints/4/manifest.json", json.dumps(manifest).encode())
    objects.put("bucket/store/outside", b"1")
    objects.put("bucket/store/runs/../../outside", b"1")
    b = machine("b")
    b.refresh()
    with pytest.raises(RunError, match="cannot be used"):
        b.run("distill-0").checkpoints.read(4, read)
    assert not [key for operation, key in objects.asked if operation == "get" and "outside" in key]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_an_owner_elsewhere_is_told_with_the_age_of_its_heartbeat(objects: Objects, machine: Any) -> None:
    begin(machine("a"))
    owner = {**Owner.current().__dict__, "host": "far", "machine": "far", "pid": 7}
    key = "bucket/store/runs/distill-0/lease/2.feed"
    objects.contents[f"{key}.claim"] = (json.dumps(owner).encode(), objects.clock() - 500)
    objects.contents[f"{key}.beat"] = (b"", objects.clock() - 70)
    b = machine("b")
    b.refresh()
    status = b.status("distill-0")
    assert (status.state, status.attempts, status.owner) == ("running", 2, "process 7 on host far")
    assert status.heartbeat_age == pytest.approx(70, abs=5)
    objects.contents[f"{key}.beat"] = (b"", objects.clock() - 100)
    b.refresh()
    assert b.status("distill-0").state == "partial"
