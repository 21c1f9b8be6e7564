"""Runs of an object store in memory, worked on from the mirrors of several machines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from obstore.exceptions import PermissionDeniedError

from rt_scale.spec.errors import InputError, RunError, StoreUnavailable
from rt_scale.store.objects import mirror
from tests.records import run_record, run_result
from tests.unit.store.machines import FakeSpec, begin, read, send, stop_waiting, weights
from tests.unit.store.objects.fake import Away, Objects


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def puts(objects: Objects) -> list[str]:
    start = "runs/distill-0/"
    return [
        key.removeprefix(start)
        for operation, key in objects.asked
        if operation == "put" and key.startswith(start) and "/lease/" not in key
    ]


def test_the_order_keeps_the_meaning(objects: Objects, machine: Any) -> None:
    run = machine("a").run(FakeSpec())
    with run.acquire():
        run.write_spec(FakeSpec())
        run.save_checkpoint(3, weights("x"))
        (run.path / "events").write_text("curve")
        run.complete(run_result(steps=3))
        (run.path / "events").write_text("curve, end")
    files = puts(objects)
    assert set(files[:2]) == {"checkpoints/3/weights", "checkpoints/3/state"}
    assert files[2] == "checkpoints/3/manifest.json"
    assert set(files[3:5]) == {"spec.json", "events"}
    assert files[5:] == ["result.json", "events"]
    assert objects.contents["runs/distill-0/events"][0] == b"curve, end"
    objects.asked.clear()
    other = machine("b").run("distill-0")
    with other.acquire():
        other.prune([])
    deleted = [key for operation, key in objects.asked if operation == "delete" and key.startswith("runs/")]
    deleted = [key.removeprefix("runs/distill-0/") for key in deleted]
    assert deleted == ["checkpoints/3/manifest.json", "checkpoints/3/state", "checkpoints/3/weights"]


def test_a_result_is_here_only_when_it_is_there(objects: Objects, machine: Any) -> None:
    run = machine("a").run(FakeSpec())
    with run.acquire():
        run.write_spec(FakeSpec())

        def away(operation: str, key: str) -> None:
            if key.endswith("result.json"):
                raise Away

        objects.before = away
        with pytest.raises(StoreUnavailable, match="in this machine's mirror"):
            run.complete(run_result())
        assert run.result() is None
        objects.before = lambda operation, key: None
        run.complete(run_result(steps=1))
    assert run.result() == run_result(steps=1)


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
    objects.write("runs/distill-0/checkpoints/8/weights", b"half")
    b = machine("b").run(FakeSpec())
    with b.acquire():
        assert b.latest_checkpoint(read, print) == (4, "distill-0 4")
        b.prune([4])
    assert not objects.keys("runs/distill-0/checkpoints/8")


def test_a_damaged_object_is_told_and_the_one_before_is_taken(objects: Objects, machine: Any) -> None:
    begin(machine("a"), 4, 8)
    objects.write("runs/distill-0/checkpoints/8/weights", b"diztill-0 8")
    told: list[str] = []
    b = machine("b").run(FakeSpec())
    with b.acquire():
        assert b.latest_checkpoint(read, told.append) == (4, "distill-0 4")
        b.prune([4])
    assert "weights is missing, or not as it was written" in told[0]
    assert not objects.keys("runs/distill-0/checkpoints/8")
    del objects.contents["runs/distill-0/checkpoints/4/state"]
    with pytest.raises(RunError, match="state is missing"):
        machine("c").run("distill-0").checkpoints.read(4, read)


def test_a_file_that_is_damaged_here_is_brought_again(objects: Objects, machine: Any) -> None:
    run = begin(machine("a"), 4)
    (run.path / "checkpoints" / "4" / "weights").write_text("damaged")
    assert run.checkpoints.read(4, read) == "distill-0 4"


def away(operation: str, key: str) -> None:
    raise Away


def test_what_could_not_be_sent_is_sent_by_the_next_attempt_here(objects: Objects, machine: Any) -> None:
    a = machine("a").run(FakeSpec())
    with a.acquire():
        a.write_spec(FakeSpec())
        objects.before = away
        a.metrics_path.write_bytes(b"eight")
        a.save_checkpoint(8, weights("eight"))
        with pytest.raises(StoreUnavailable):
            send(a)
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
        run.write_record(run_record())
    b = machine("b").run("distill-0")
    b.refresh()
    assert (b.checkpoints.read(8, read), b.metrics_path.read_bytes()) == ("eight", b"eight")
    assert (b.failure() or {})["reason"] == "the store is away"


def test_what_was_overtaken_is_not_kept(objects: Objects, machine: Any) -> None:
    a = machine("a").run(FakeSpec())
    with a.acquire():
        a.write_spec(FakeSpec())
        a.save_checkpoint(4, weights("four"))
        send(a)
        objects.before = away
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
            a.save_checkpoint(3, weights("x"))
            with pytest.raises(RunError, match="no longer owns"):
                send(a)
            with pytest.raises(RunError, match="no longer owns"):
                a.complete(run_result())
            b.write_record(run_record({"host": "b"}))
    assert not objects.keys("runs/distill-0/checkpoints")
    b.refresh()
    assert (b.status().state, b.status().attempts) == ("partial", 2)


def test_a_folder_is_ahead_only_until_all_is_sent(objects: Objects, machine: Any) -> None:
    store = machine("a")
    run = begin(store, 4)
    assert {path.suffix for path in (store.root / ".mirror").iterdir()} == {".known", ".lock"}
    (run.path / "spec.json").unlink()
    store.refresh()
    assert run.spec() == FakeSpec().canonical()


def test_a_process_that_lost_the_run_and_works_on_in_this_folder(
    objects: Objects, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_WAIT", 0.05)
    first, second = machine("a").run(FakeSpec()), machine("a").run(FakeSpec())
    with first.acquire():
        stop_waiting(objects)
        with pytest.raises(InputError, match="is in use by a process that does not own the run any more"):
            second.acquire()
    with second.acquire() as lease:
        assert lease.attempt == 3


def test_a_store_that_cannot_be_written_is_found_before_any_work(objects: Objects, machine: Any) -> None:
    def refuse(operation: str, key: str) -> None:
        if operation == "put":
            raise PermissionDeniedError("AccessDenied")

    machine("a").check_writable()
    assert objects.keys() == []
    objects.before = refuse
    with pytest.raises(InputError, match="refuses to write"):
        machine("a").check_writable()


def test_what_was_written_is_sent_every_few_seconds(
    objects: Objects, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = machine("a").run(FakeSpec())
    with run.acquire():
        run.write_spec(FakeSpec())
        run.write_record(run_record())
        run.save_checkpoint(3, weights("x"))
        sent = [key.rpartition("/")[2] for key in objects.keys("runs") if "lease" not in key]
        assert sent == ["environment.json", "spec.json"]
    monkeypatch.setattr(mirror, "UPLOAD_S", 0.01)
    with run.acquire():
        run.save_checkpoint(4, weights("y"))
        wait_for(lambda: "runs/distill-0/checkpoints/4/manifest.json" in objects.contents)
        run.prune([4])
        wait_for(lambda: not objects.keys("runs/distill-0/checkpoints/3"))
        wait_for(lambda: not run._changed.is_set())
        count = len(objects.asked)
        time.sleep(0.1)
        assert len(objects.asked) == count  # nothing has changed


def test_a_write_waits_for_a_store_to_which_nothing_could_be_sent(
    objects: Objects, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "UPLOAD_S", 0.01)
    run = machine("a").run(FakeSpec())
    with run.acquire():
        objects.before = away
        run.write_spec(FakeSpec())
        wait_for(lambda: run._behind)
        with pytest.raises(StoreUnavailable):
            run.save_checkpoint(3, weights("x"))
        assert run.checkpoints.steps() == [3]
        objects.before = lambda operation, key: None
        run.write_record(run_record())
        assert "runs/distill-0/checkpoints/3/manifest.json" in objects.contents


def test_a_checkpoint_that_is_removed_while_it_is_sent_is_sent_whole(objects: Objects, machine: Any) -> None:
    run = machine("a").run(FakeSpec())
    with run.acquire():
        run.save_checkpoint(3, weights("x"))

        def go_on(operation: str, key: str) -> None:
            if key.endswith("3/state") and run.checkpoints.steps() == [3]:
                run.checkpoints.save(4, weights("y"), lambda: None)
                run.checkpoints.prune([4])

        objects.before = go_on
        send(run)
        assert "runs/distill-0/checkpoints/3/manifest.json" in objects.contents
        assert not run._mark_file("links").exists()
        send(run)
        assert objects.keys("runs/distill-0/checkpoints/3") == []
        assert "runs/distill-0/checkpoints/4/manifest.json" in objects.contents
