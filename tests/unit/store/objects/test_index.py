"""A store of many finished runs, and the index that makes looks at it cheap."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rt_scale.store.gc import find_garbage, remove_garbage
from rt_scale.store.objects import index, store
from rt_scale.store.objects.store import ObjectStore
from tests.records import run_record, run_result
from tests.unit.store.machines import FakeSpec, begin, read, send, weights
from tests.unit.store.objects.fake import Objects

RUNS = 6


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few runs as there are here count as many."""
    monkeypatch.setattr(store, "_FEW", 20)
    monkeypatch.setattr(store, "_FEW_RUNS", 1)
    monkeypatch.setattr(store, "LEAST", 2)


def finish(machine_: ObjectStore, number: int) -> None:
    name = f"distill-{number}"
    run = machine_.run(FakeSpec(name=name))
    with run.acquire():
        run.write_spec(FakeSpec(name=name))
        run.write_record(run_record({"host": name}))
        run.metrics_path.write_bytes(f"metrics {number}".encode())
        (run.path / "events.out.tfevents.2-scalars-0001").write_bytes(b"curve")
        run.save_artifact("grid.npz", b"grid")
        run.save_checkpoint(number, weights(name))
        run.complete(run_result(steps=number))


@pytest.fixture
def filled(objects: Objects, machine: Any) -> Objects:
    a = machine("a")
    for number in range(RUNS):
        finish(a, number)
    a.sweep("s").write("name: s", [f"distill-{number}" for number in range(RUNS)])
    a.refresh()
    a.tidy()
    objects.asked.clear()
    return objects


def shown(place: ObjectStore, *, curves: bool, events: bool = True) -> None:
    assert place.names() == [f"distill-{number}" for number in range(RUNS)]
    for number, name in enumerate(place.names()):
        run, status = place.run(name), place.status(name)
        assert (status.state, status.attempts) == ("done", 1)
        assert (run.result(), run.record()) == (run_result(steps=number), run_record({"host": name}))
        assert run.spec() == FakeSpec().canonical()
        assert run.checkpoints.steps() == [number]
        names = ("metrics.parquet", "events.out.tfevents.2-scalars-0001", "artifacts/grid.npz")
        assert [(run.path / each).exists() for each in names] == [curves, curves and events, curves]


def kinds(objects: Objects) -> Counter[str]:
    found = Counter(operation for operation, _ in objects.asked)
    objects.asked.clear()
    return found


def test_many_finished_runs_are_looked_at_in_few_requests(filled: Objects, machine: Any) -> None:
    b = machine("b")
    b.refresh(curves=False)
    shown(b, curves=False)
    # Of the sweep, three files; of the index, the facts.
    assert kinds(filled) == {"list": 4, "folders": 1, "get": 3 + 1}
    b.refresh(curves=False)
    assert kinds(filled) == {"list": 4, "folders": 1}
    assert b.measure("distill-3")[0] == sum(
        len(data) for key, (data, _) in filled.contents.items() if key.startswith("runs/distill-3/")
    )
    b.refresh()
    shown(b, curves=True)
    assert kinds(filled) == {"list": 4, "folders": 1, "get": 1 + RUNS}  # artifacts are brought one by one
    assert b.run("distill-3").checkpoints.read(3, read) == "distill-3"
    machine("c").refresh()
    shown(machine("c"), curves=True)
    machine("d").refresh(events=False)
    shown(machine("d"), curves=True, events=False)
    machine("d").refresh()
    shown(machine("d"), curves=True)


def test_sweeps_alone_are_looked_at(filled: Objects, machine: Any) -> None:
    b = machine("b")
    b.refresh_sweeps()
    assert (b.names(), len(b.sweep("s").runs())) == ([], RUNS)
    assert kinds(filled) == {"list": 1, "get": 3}


def test_runs_that_are_not_indexed_are_seen_beside_those_that_are(filled: Objects, machine: Any) -> None:
    a, b = machine("a"), machine("b")
    begin(a, 4, name="distill-7")
    b.refresh(curves=False)
    assert (b.status("distill-7").state, b.status("distill-5").state) == ("partial", "done")
    assert kinds(filled)["list"] > 4
    for number in (8, 9):
        finish(a, number)
    c = machine("c")
    c.refresh(curves=False)  # by listing everything
    assert {name: c.status(name).state for name in c.names() if c.status(name).state != "done"} == {
        "distill-7": "partial"
    }
    a.refresh()
    a.tidy()
    assert len(filled.keys("index/")) == 4
    d = machine("d")
    d.refresh()
    assert d.run("distill-9").metrics_path.read_bytes() == b"metrics 9"


def test_a_run_that_is_begun_again_is_not_done(filled: Objects, machine: Any) -> None:
    """Its folder was removed by hand, as messages advise where a checkpoint is damaged."""
    for key in filled.keys("runs/distill-3/"):
        del filled.contents[key]
    b = machine("b")
    b.refresh()
    assert "distill-3" not in b.names()
    run = b.run(FakeSpec(name="distill-3"))
    with run.acquire():
        run.write_spec(FakeSpec(name="distill-3"))
        send(run)
        c = machine("c")
        c.refresh()
        assert c.status("distill-3").state == "running"
    c.refresh()
    assert c.status("distill-3").state == "partial"
    finish(b, 3)
    assert filled.keys("open/") == []
    c.refresh()
    assert c.status("distill-3").state == "done"


def test_removed_runs_leave_the_index(filled: Objects, machine: Any) -> None:
    b = machine("b")
    b.sweep("s").write("name: s", ["distill-0"])
    b.refresh()
    found = find_garbage(b)
    assert len(found) == RUNS - 1
    assert remove_garbage(b, found) == {}
    assert b.names() == ["distill-0"]
    c = machine("c")
    c._index.refresh(key for key in filled.keys("index/"))
    assert list(c._index.runs) == ["distill-0"]
    b.sweep("s").write("name: s", [])
    for key in filled.keys("sweeps/"):
        del filled.contents[key]
    b.refresh()
    assert remove_garbage(b, find_garbage(b)) == {}
    assert filled.keys("runs/") == []


def test_a_run_whose_removal_was_killed_is_not_done(filled: Objects, machine: Any) -> None:
    b = machine("b")
    b.refresh()

    asked = filled._ask

    def after(operation: str, key: str) -> None:
        asked(operation, key)
        if operation == "delete" and key.endswith("result.json"):
            filled.contents.pop(key)
            raise KeyboardInterrupt

    filled._ask = after  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        b.run("distill-3").remove(60.0)
    filled._ask = asked  # type: ignore[method-assign]
    c = machine("c")
    c.refresh()
    assert c.status("distill-3").state == "partial"


def test_the_index_may_be_removed_and_is_written_again(filled: Objects, machine: Any) -> None:
    for key in filled.keys("index/"):
        del filled.contents[key]
    b = machine("b")
    b.refresh()
    shown(b, curves=True)
    b.tidy()
    assert len(filled.keys("index/")) == 2


def test_many_parts_are_merged(filled: Objects, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_PARTS", 2)
    a = machine("a")
    for number in range(RUNS, RUNS + 6, 2):
        finish(a, number)
        finish(a, number + 1)
        a.refresh()
        a.tidy()
    assert len(filled.keys("index/")) == 4
    a.refresh()
    assert len(a._index.runs) == RUNS + 6
    assert len(a._index.curves()) == RUNS + 6


def test_a_part_that_another_driver_merges_meanwhile(filled: Objects, machine: Any, tmp_path: Path) -> None:
    b = machine("b")

    def merge(operation: str, key: str) -> None:
        if operation == "get" and key.startswith("index/"):
            for each in filled.keys("index/"):
                del filled.contents[each]

    filled.before = merge
    b.refresh()
    filled.before = lambda operation, key: None
    b.refresh()
    shown(b, curves=True)
