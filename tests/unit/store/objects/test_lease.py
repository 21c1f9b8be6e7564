"""The protocol of claims, on an object store in memory whose clock is the test's."""

from __future__ import annotations

import dataclasses
import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rt_scale.spec.errors import InputError, RunError, StoreAway
from rt_scale.store.lease import Owner
from rt_scale.store.objects import lease as remote_lease
from rt_scale.store.objects.claims import winners
from rt_scale.store.objects.lease import HEARTBEAT, STALE, WATCH, RemoteLease
from tests.unit.store.conftest import Watch
from tests.unit.store.objects.fake import Objects

RUN = "runs/r"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lease, "SETTLING", 0.05)
    monkeypatch.setattr(remote_lease, "RESOLUTION", -60.0)  # no claim takes too long to write, however busy we are


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
def held(objects: Objects) -> Iterator[RemoteLease]:
    with RemoteLease(objects.bucket(), RUN, heartbeat=1e9) as lease:
        yield lease


def elsewhere(objects: Objects, number: int, date: float, token: str = "0", what: str = "claim", **more: Any) -> str:
    """An object of a claim by a process on another machine."""
    owner = Owner(**{"host": "far", "machine": "far", "pid": 7, "started": 1, "token": token, "acquired": 0.0} | more)
    key = f"bucket/store/{RUN}/lease/{number}.{token}.{what}"
    objects.contents[key] = (json.dumps(dataclasses.asdict(owner)).encode(), date)
    return key


def while_settling(monkeypatch: pytest.MonkeyPatch, happens: Any) -> None:
    """Let something happen, once, between a claim and the look at who won."""
    sleep, left = time.sleep, [happens]

    def wait(seconds: float) -> None:
        sleep(seconds)
        if left:
            left.pop()()

    monkeypatch.setattr(remote_lease.time, "sleep", wait)


def test_attempts_are_counted_and_never_given_twice(objects: Objects) -> None:
    for number in (1, 2, 3):
        with RemoteLease(objects.bucket(), RUN) as lease:
            assert lease.attempt == number
            assert (lease.before and lease.before.number) == (number - 1 or None)
            lease.check()
        lease.release()
        with pytest.raises(RunError, match="was released"):
            lease.check()
    assert len(objects.keys("runs/r/lease/")) == 9
    assert [claim.ended for claim in winners(
        {key.removeprefix("runs/r/"): entry for key, entry in objects.bucket().entries(RUN).items()}
    ).values()] == [True] * 3  # fmt: skip


def test_who_is_at_work_is_not_disturbed(objects: Objects, held: RemoteLease) -> None:
    with pytest.raises(InputError) as refusal:
        RemoteLease(objects.bucket(), RUN)
    assert "The run 's3://bucket/store/runs/r' is in use: process " in str(refusal.value)
    assert "its claim ends 90 s after its last heartbeat" in str(refusal.value)
    assert len(objects.keys("runs/r/lease/")) == 2
    held.check()


def test_a_silent_owner_elsewhere_is_replaced_by_the_servers_clock(
    objects: Objects, clock: Clock, watch: Watch
) -> None:
    elsewhere(objects, 1, 5000.0)
    elsewhere(objects, 1, 5010.0, what="beat")
    clock.now = 5010.0 + STALE - WATCH - 1
    with pytest.raises(InputError, match=r"process 7 on host far, last heartbeat 44 s ago"):
        RemoteLease(objects.bucket(), RUN)
    clock.now += 2
    with RemoteLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 2
    assert watch.now - 1000 == WATCH


@pytest.mark.parametrize("ahead", [3.0, 3600.0, 1e9])
@pytest.mark.parametrize("beaten", [False, True])
def test_what_is_dated_in_the_future_keeps_a_run_no_longer(
    objects: Objects, clock: Clock, watch: Watch, ahead: float, beaten: bool
) -> None:
    """The server's clock was wrong, and was put right."""
    elsewhere(objects, 1, clock.now + ahead)
    if beaten:
        elsewhere(objects, 1, clock.now + ahead + 4, what="beat")
    with RemoteLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 2
    assert STALE <= watch.now - 1000 < STALE + 2


def test_a_beat_counts_though_its_claim_is_dated_in_the_future(objects: Objects, clock: Clock, watch: Watch) -> None:
    elsewhere(objects, 1, clock.now + 1e6)
    elsewhere(objects, 1, clock.now - STALE, what="beat")
    with RemoteLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 2
    assert watch.now - 1000 == WATCH


@pytest.mark.parametrize("jump", [-1e6, -3600.0, 3600.0, 1e6])
def test_who_is_at_work_keeps_the_run_whatever_the_servers_clock_says(
    objects: Objects, clock: Clock, watch: Watch, jump: float
) -> None:
    elsewhere(objects, 1, clock.now - 20)
    elsewhere(objects, 1, clock.now - 10, what="beat")
    clock.now += jump
    seconds = [0]

    def happens() -> None:
        seconds[0] += 1
        clock.now += 1
        if seconds[0] % HEARTBEAT == 5:
            elsewhere(objects, 1, clock.now, what="beat")

    watch.happens = happens
    with pytest.raises(InputError, match="process 7 on host far"):
        RemoteLease(objects.bucket(), RUN)


def test_a_dead_process_of_this_machine_is_replaced_at_once(objects: Objects) -> None:
    machine = Owner.current().machine
    elsewhere(objects, 1, 5000.0, machine=machine, pid=2**22 + 1)  # killed before it looked who won
    with RemoteLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 2


def test_who_was_dated_first_wins(objects: Objects, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    clock.now = 5001.0
    while_settling(monkeypatch, lambda: elsewhere(objects, 1, 5000.0, token="zz"))
    with pytest.raises(InputError, match="process 7 on host far"):
        RemoteLease(objects.bucket(), RUN)
    assert objects.keys("runs/r/lease/") == ["runs/r/lease/1.zz.claim"]  # the loser took his back


@pytest.mark.parametrize(("token", "wins"), [("", False), ("zz", True)])
def test_within_a_second_the_token_decides(
    objects: Objects, monkeypatch: pytest.MonkeyPatch, token: str, wins: bool
) -> None:
    while_settling(monkeypatch, lambda: elsewhere(objects, 1, 5000.0, token=token))
    if wins:
        with RemoteLease(objects.bucket(), RUN) as lease:
            lease.check()
    else:
        with pytest.raises(InputError, match="in use"):
            RemoteLease(objects.bucket(), RUN)


def test_a_late_claim_changes_nothing(objects: Objects, clock: Clock, held: RemoteLease) -> None:
    clock.now = 5030.0
    elsewhere(objects, 1, 5030.0, token="")
    held.check()
    with pytest.raises(InputError, match="in use: process"):
        RemoteLease(objects.bucket(), RUN)
    # Not even one with a date before, as a server would have to give it against its promise: a beat was there first.
    elsewhere(objects, 1, 1.0, token="")
    held.check()
    assert (
        winners({key.removeprefix("runs/r/"): entry for key, entry in objects.bucket().entries(RUN).items()})[1].token
        == held.owner.token
    )


def test_a_claim_that_took_long_to_write_is_taken_back(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another may have looked before it was there, though it is dated before his."""
    watch, late = time.monotonic, [0.0]
    monkeypatch.setattr(remote_lease.time, "monotonic", lambda: watch() + late[0])

    def before(operation: str, key: str) -> None:
        if operation == "put" and key.endswith(".claim"):
            late[0] = 61.0

    objects.before = before
    with RemoteLease(objects.bucket(), RUN) as lease:
        assert lease.attempt == 1
    assert [operation for operation, key in objects.asked if key.endswith(".claim")] == ["put", "delete", "put"]


def test_a_store_too_slow_for_claims(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lease, "SETTLING", 0.001)
    monkeypatch.setattr(remote_lease, "RESOLUTION", 1.0)
    with pytest.raises(StoreAway, match="could not be claimed in 20 tries"):
        RemoteLease(objects.bucket(), RUN)
    assert objects.keys() == []


def test_a_takeover_is_noticed_before_the_next_write(objects: Objects, held: RemoteLease) -> None:
    key = elsewhere(objects, 2, 5000.0)
    with pytest.raises(RunError, match=r"attempt 1\) no longer owns the run 's3://bucket/store/runs/r': attempt 2 do"):
        held.check()
    del objects.contents[key]
    held.check()
    objects.contents.clear()
    with pytest.raises(RunError, match="it was removed"):
        held.check()


def test_the_heartbeat(objects: Objects, clock: Clock) -> None:
    beaten = threading.Event()
    with RemoteLease(objects.bucket(), RUN, heartbeat=0.01, beaten=beaten.set) as lease:
        claimed = objects.contents[f"bucket/store/{RUN}/lease/1.{lease.owner.token}.claim"]
        objects.before = lambda operation, key: (_ for _ in ()).throw(OSError("away"))
        time.sleep(0.05)
        objects.before = lambda operation, key: None
        clock.now = 9000.0
        for _ in range(2):  # one may have been dated before
            beaten.clear()
            assert beaten.wait(30)
        assert objects.contents[f"bucket/store/{RUN}/lease/1.{lease.owner.token}.beat"][1] == 9000.0
        assert objects.contents[f"bucket/store/{RUN}/lease/1.{lease.owner.token}.claim"] == claimed


def test_who_leaves_says_so_after_his_last_words(objects: Objects) -> None:
    said: list[list[str]] = []
    lease = RemoteLease(
        objects.bucket(), RUN, leaving=lambda: said.append(objects.keys()), left=lambda: said.append(objects.keys())
    )
    lease.release()
    lease.release()
    assert [any(key.endswith(".end") for key in keys) for keys in said] == [False, True]


def test_of_contenders_at_once_exactly_one_wins(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lease, "SETTLING", 0.3)
    monkeypatch.setattr(remote_lease, "RESOLUTION", 0.1)
    objects.clock = lambda: 10 * time.monotonic()  # a "second" of a tenth
    draws = random.Random(0)
    for run in range(4):
        outcomes: list[Any] = []

        def contend(delay: float, run: int = run, outcomes: list[Any] = outcomes) -> None:
            time.sleep(delay)
            try:
                outcomes.append(RemoteLease(objects.bucket(), f"runs/{run}", stale=1e6))
            except InputError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=contend, args=(draws.uniform(0, 0.2),)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = (outcome for outcome in outcomes if isinstance(outcome, RemoteLease))
        winner.check()
        assert winner.attempt == 1
        winner.release()
        assert len(objects.keys(f"runs/{run}/lease/")) == 3
