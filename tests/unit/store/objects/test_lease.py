"""Leases on an object store in memory whose clock is the test's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest

from rt_scale.spec.errors import InputError, LeasedElsewhere, RunError
from rt_scale.store.lease import LOST, Owner, Process, note_lost
from rt_scale.store.objects.lease import TIMES, ObjectLease
from tests.unit.store.conftest import Watch
from tests.unit.store.objects.fake import Away, Objects

RUN = "runs/r"
STILL = replace(TIMES, heartbeat=1e9)


class Clock:
    """The server's clock, hours away from ours."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def objects(clock: Clock) -> Objects:
    return Objects(clock)


@pytest.fixture
def held(objects: Objects) -> Iterator[ObjectLease]:
    with ObjectLease(objects.bucket(), RUN, STILL) as lease:
        yield lease


def elsewhere(objects: Objects, number: int, date: float, what: str = "claim", token: str = "exclusive") -> str:
    """An object of a claim by a process on another machine."""
    key = f"{RUN}/lease/{number}.{token}.{what}"
    owner = Owner("far", "far", 7, 1, f"token of {number}", 0.0)
    objects.write(key, json.dumps(asdict(owner)).encode() if what == "claim" else b"", date)
    return key


def test_attempts_are_counted_and_never_given_twice(objects: Objects) -> None:
    for number in (1, 2, 3):
        with ObjectLease(objects.bucket(), RUN) as lease:
            assert lease.attempt == number
            assert (lease.before and lease.before.number) == (number - 1 or None)
            lease.check()
        lease.release()
        for check in (lease.check, lease.check_here):
            with pytest.raises(RunError, match="was released"):
                check()
    assert len(objects.keys("runs/r/lease/")) == 6
    # What is left of a run that was being removed is no attempt of the next one, and does not end it.
    for key in objects.keys("runs/r/lease/"):
        if key.endswith((".claim", ".beat")):
            del objects.contents[key]
    with ObjectLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 4
        with pytest.raises(InputError, match="in use"):
            ObjectLease(objects.bucket(), RUN)


def test_who_is_at_work_is_not_disturbed(objects: Objects, held: ObjectLease) -> None:
    with pytest.raises(InputError) as refusal:
        ObjectLease(objects.bucket(), RUN)
    assert "The run 's3://bucket/store/runs/r' is in use: process " in str(refusal.value)
    assert "its claim ends 90 s after its last heartbeat" in str(refusal.value)
    assert len(objects.keys("runs/r/lease/")) == 1
    held.check()


@pytest.mark.parametrize("beats", [False, True])
def test_an_owner_that_ray_has_lost_is_replaced_soon_unless_it_beats(
    objects: Objects, clock: Clock, watch: Watch, beats: bool
) -> None:
    note_lost([Process("far", 7, 1)])
    elsewhere(objects, 1, clock.now - 7)

    def happens() -> None:
        clock.now += 1
        if beats and watch.now - 1000 >= TIMES.heartbeat - 7:
            elsewhere(objects, 1, clock.now, "beat")

    watch.happens = happens
    if beats:
        with pytest.raises(LeasedElsewhere, match="process 7 on host far"):
            ObjectLease(objects.bucket(), RUN)
        return
    with ObjectLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 2
    assert watch.now - 1000 == pytest.approx(LOST - 7, abs=1.5)


@pytest.mark.parametrize("token", ["exclusive", "0123456789abcdef"])
def test_a_silent_owner_elsewhere_is_replaced_by_the_servers_clock(
    objects: Objects, clock: Clock, watch: Watch, token: str
) -> None:
    elsewhere(objects, 1, 5000.0, token=token)
    elsewhere(objects, 1, 5010.0, "beat", token=token)
    clock.now = 5010.0 + TIMES.stale - TIMES.watch - 1
    with pytest.raises(InputError, match=r"process 7 on host far, last heartbeat 44 s ago"):
        ObjectLease(objects.bucket(), RUN)
    clock.now += 2
    with ObjectLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 2
    assert watch.now - 1000 == TIMES.watch


@pytest.mark.parametrize("ahead", [3.0, 3600.0, 1e9])
@pytest.mark.parametrize("beaten", [False, True])
def test_what_is_dated_in_the_future_keeps_a_run_no_longer(
    objects: Objects, clock: Clock, watch: Watch, ahead: float, beaten: bool
) -> None:
    """The server's clock was wrong, and was put right."""
    elsewhere(objects, 1, clock.now + ahead)
    if beaten:
        elsewhere(objects, 1, clock.now + ahead + 4, "beat")
    with ObjectLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 2
    assert TIMES.stale <= watch.now - 1000 < TIMES.stale + 2


def test_a_beat_counts_though_its_claim_is_dated_in_the_future(objects: Objects, clock: Clock, watch: Watch) -> None:
    elsewhere(objects, 1, clock.now + 1e6)
    elsewhere(objects, 1, clock.now - TIMES.stale, "beat")
    with ObjectLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 2
    assert watch.now - 1000 == TIMES.watch


@pytest.mark.parametrize("jump", [-1e6, -3600.0, 3600.0, 1e6])
def test_who_is_at_work_keeps_the_run_whatever_the_servers_clock_says(
    objects: Objects, clock: Clock, watch: Watch, jump: float
) -> None:
    elsewhere(objects, 1, clock.now - 20)
    elsewhere(objects, 1, clock.now - 10, "beat")
    clock.now += jump
    seconds = [0]

    def happens() -> None:
        seconds[0] += 1
        clock.now += 1
        if seconds[0] % TIMES.heartbeat == 5:
            elsewhere(objects, 1, clock.now, "beat")

    watch.happens = happens
    with pytest.raises(InputError, match="process 7 on host far"):
        ObjectLease(objects.bucket(), RUN)


def test_a_dead_process_of_this_machine_is_replaced_at_once(objects: Objects) -> None:
    """Killed between its claim and its first heartbeat."""
    dead = replace(Owner.current(), pid=2**22 + 1)
    objects.write(f"{RUN}/lease/1.exclusive.claim", json.dumps(asdict(dead)).encode())
    with ObjectLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 2


def test_a_takeover_is_noticed_before_the_next_write(objects: Objects, held: ObjectLease) -> None:
    key = elsewhere(objects, 2, 5000.0)
    with pytest.raises(RunError, match=r"attempt 1\) no longer owns the run 's3://bucket/store/runs/r': attempt 2 do"):
        held.check()
    held.check_here()
    del objects.contents[key]
    held.check()
    elsewhere(objects, 1, 5000.0)  # the run was removed, and another has the first attempt at it
    with pytest.raises(RunError, match="attempt 1 does"):
        held.check()
    objects.contents.clear()
    with pytest.raises(RunError, match="it was removed"):
        held.check()


def test_the_heartbeat(objects: Objects, clock: Clock) -> None:
    beaten = threading.Event()
    with ObjectLease(objects.bucket(), RUN, replace(TIMES, heartbeat=0.01), beaten=beaten.set):
        claimed = objects.contents[f"{RUN}/lease/1.exclusive.claim"]
        failed = threading.Event()

        def away(operation: str, key: str) -> None:
            failed.set()
            raise Away

        objects.before = away
        assert failed.wait(30)
        objects.before = lambda operation, key: None
        clock.now = 9000.0
        for _ in range(2):  # one may have been dated before
            beaten.clear()
            assert beaten.wait(30)
        assert objects.contents[f"{RUN}/lease/1.exclusive.beat"][1] == 9000.0
        assert objects.contents[f"{RUN}/lease/1.exclusive.claim"] == claimed


def test_who_leaves_says_so_last_of_all(objects: Objects) -> None:
    said: list[list[str]] = []
    lease = ObjectLease(
        objects.bucket(), RUN, leaving=lambda: said.append(objects.keys()), left=lambda: said.append(objects.keys())
    )
    lease.release()
    lease.release()
    assert [any(key.endswith(".end") for key in keys) for keys in said] == [False, True]


def test_of_contenders_at_once_exactly_one_wins(objects: Objects) -> None:
    objects.clock = time.time
    for run in range(4):
        outcomes: list[Any] = []
        barrier = threading.Barrier(5, timeout=30)

        def contend(run: int = run, outcomes: list[Any] = outcomes, barrier: Any = barrier) -> None:
            barrier.wait()
            try:
                outcomes.append(ObjectLease(objects.bucket(), f"runs/{run}"))
            except InputError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=contend) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = (outcome for outcome in outcomes if isinstance(outcome, ObjectLease))
        winner.check()
        assert winner.attempt == 1
        winner.release()
        assert len(objects.keys(f"runs/{run}/lease/")) == 2


def test_a_run_that_an_earlier_version_has_is_respected_and_counted(objects: Objects) -> None:
    elsewhere(objects, 3, 4990.0, token="feed")
    with pytest.raises(InputError, match=r"in use: process 7 on host far, last heartbeat 10 s ago"):
        ObjectLease(objects.bucket(), RUN)
    elsewhere(objects, 3, 4995.0, "beat", token="feed")
    with pytest.raises(InputError, match=r"in use: process 7 on host far, last heartbeat 5 s ago"):
        ObjectLease(objects.bucket(), RUN)
    elsewhere(objects, 3, 4996.0, "end", token="feed")
    with ObjectLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 4
