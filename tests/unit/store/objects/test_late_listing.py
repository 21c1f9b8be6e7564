"""A store whose listings lag behind what was written."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from rt_scale.spec.errors import InputError, RunError
from rt_scale.store.lease import Owner
from rt_scale.store.objects.lease import TIMES, ObjectLease
from tests.records import run_record, run_result
from tests.unit.store.conftest import Watch
from tests.unit.store.machines import FakeSpec, begin, read, send, weights
from tests.unit.store.objects.fake import Objects

NAME = "runs/distill-0"
FAR = Owner("far", "far", 7, 1, "token", 0.0)


def unlist(objects: Objects) -> None:
    objects.unlisted = set(objects.contents)


def test_a_run_that_another_has_is_found_by_its_number(objects: Objects, machine: Any) -> None:
    run = machine("a").run(FakeSpec())
    with run.acquire():
        run.write_spec(FakeSpec())
        unlist(objects)
        run.save_checkpoint(3, weights("x"))
        send(run)  # its own claim is not listed either
        other = machine("b").run(FakeSpec())
        other.refresh()
        with pytest.raises(InputError, match="is in use: process"):
            other.acquire()


def test_a_finished_run_is_not_run_again(objects: Objects, machine: Any) -> None:
    run = begin(machine("a"), 4)
    with run.acquire():
        run.write_record(run_record({"host": "a"}))
        run.complete(run_result(steps=4))
    unlist(objects)
    b = machine("b").run(FakeSpec())
    b.refresh()
    assert (b.result(), b.record()) == (run_result(steps=4), run_record({"host": "a"}))
    assert b.checkpoints.read(4, read) == "distill-0 4"
    c = machine("c").run(FakeSpec())
    with c.acquire() as lease:
        assert lease.attempt == 3
        assert c.result() == run_result(steps=4)


def test_what_is_here_is_not_removed_as_it_is_not_listed(objects: Objects, machine: Any) -> None:
    a = machine("a")
    run = begin(a, 4)
    with run.acquire():
        run.complete(run_result(steps=4))
    a.sweep("s").write("name: s", ["distill-0"])
    unlist(objects)
    a.refresh()
    assert run.status().state == "done"
    assert a.sweep("s").runs() == ["distill-0"]
    objects.unlisted = {f"{NAME}/result.json", "sweeps/s/runs.json"}
    a.refresh()
    assert run.status().state == "done"
    assert a.sweep("s").runs() == ["distill-0"]
    del objects.contents[f"{NAME}/result.json"], objects.contents["sweeps/s/runs.json"]
    a.refresh()
    assert run.status().state == "partial"
    assert a.sweep("s").runs() == []


def test_a_takeover_that_is_not_listed_is_noticed_where_ours_is_not_either(objects: Objects) -> None:
    with ObjectLease(objects.bucket(), NAME, replace(TIMES, heartbeat=1e9)) as lease:
        objects.write(f"{NAME}/lease/2.exclusive.claim", json.dumps(asdict(FAR)).encode())
        unlist(objects)
        with pytest.raises(RunError, match="attempt 2 does"):
            lease.check()


def test_a_heartbeat_that_is_not_listed_counts(objects: Objects, watch: Watch) -> None:
    """The listing shows a claim of long ago; its owner has just sent a heartbeat."""
    objects.write(f"{NAME}/lease/1.exclusive.claim", json.dumps(asdict(FAR)).encode(), objects.clock() - 500)
    objects.write(f"{NAME}/lease/1.exclusive.beat", b"")
    objects.unlisted = {f"{NAME}/lease/1.exclusive.beat"}
    with pytest.raises(InputError, match="process 7 on host far, last heartbeat"):
        ObjectLease(objects.bucket(), NAME)
    del objects.contents[f"{NAME}/lease/1.exclusive.beat"]
    with ObjectLease(objects.bucket(), NAME) as lease:
        assert lease.attempt == 2
