from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rt_scale.spec.errors import InputError, LeasedElsewhere, RunError
from rt_scale.store import lease as lease_module
from rt_scale.store.lease import (
    FOLDER,
    LATE,
    LOST,
    TIMES,
    Attempt,
    FileLease,
    Owner,
    Process,
    latest_attempt,
    note_lost,
)
from tests.unit.store.conftest import Watch

HOLD = """
import sys, time
from pathlib import Path
from rt_scale.store.lease import FileLease
lease = FileLease(Path(sys.argv[1]))
print(lease.attempt, flush=True)
time.sleep(600)
"""

CONTEND = """
import sys
from pathlib import Path
from rt_scale.spec.errors import InputError
from rt_scale.store.lease import FileLease
print("ready", flush=True)
sys.stdin.readline()
try:
    lease = FileLease(Path(sys.argv[1]))
    print("won", lease.attempt, flush=True)
except InputError:
    print("lost", flush=True)
sys.stdin.readline()
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def record(run: Path, number: int, owner: Owner, age: float = 0.0) -> None:
    """An attempt by another process, its last heartbeat ``age`` seconds ago."""
    path = run / FOLDER / f"{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(owner)))
    then = time.time() - age
    os.utime(path, (then, then))


def elsewhere() -> Owner:
    return replace(Owner.current(), host="node7", machine="another boot", pid=4242)


def beats(run: Path, ahead: float) -> Callable[[], None]:
    """The owner elsewhere beats, by a clock that is ``ahead`` seconds ahead of the one here."""
    path, number = run / FOLDER / "1.json", [0]

    def beat() -> None:
        number[0] += 1
        os.utime(path, (time.time() + ahead + number[0],) * 2)

    return beat


def test_attempts_are_counted_and_released(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    assert latest_attempt(tmp_path) is None
    for number in (1, 2, 3):
        with FileLease(tmp_path) as lease:
            lease.check()
            assert lease.attempt == number
            attempt = latest_attempt(tmp_path)
            assert attempt is not None
            assert (attempt.number, attempt.owner, attempt.is_live()) == (number, lease.owner, True)
        after = latest_attempt(tmp_path)
        assert after is not None
        assert str(after).endswith("done by now")
        assert not after.is_live()
    with pytest.raises(RunError, match="released"):
        lease.check()
    assert set(threading.enumerate()) <= before


def test_a_live_process_keeps_others_out(tmp_path: Path) -> None:
    holder = start(HOLD, tmp_path)
    try:
        assert line(holder) == "1"
        with pytest.raises(InputError, match=rf"in use: process {holder.pid} on host .*heartbeat \d+ s ago") as caught:
            FileLease(tmp_path)
        assert caught.value.exit_code == 2
    finally:
        finish(holder)
    # Killed: it is taken over at once, whatever the age of the heartbeat.
    with FileLease(tmp_path, replace(TIMES, stale=1e9)) as lease:
        assert lease.attempt == 2


def test_a_stopped_process_is_no_owner_after_a_while(tmp_path: Path, watch: Watch) -> None:
    record(tmp_path, 1, replace(Owner.current(), token="other"), age=100)
    with FileLease(tmp_path) as lease:
        assert lease.attempt == 2
    assert watch.now == 1000 + TIMES.watch


@pytest.mark.parametrize("ahead", [3.0, 3600.0, 1e9])
def test_a_heartbeat_in_the_future_keeps_a_run_no_longer_than_another(
    tmp_path: Path, watch: Watch, ahead: float
) -> None:
    record(tmp_path, 1, elsewhere(), age=-ahead)
    attempt = latest_attempt(tmp_path)
    assert attempt is not None
    assert attempt.is_live()
    assert "unknown age: it is dated" in str(attempt)
    told: list[Attempt] = []
    with FileLease(tmp_path, watching=told.append) as lease:
        assert lease.attempt == 2
    assert TIMES.stale <= watch.now - 1000 < TIMES.stale + 2
    assert {each.who for each in told} == {"process 4242 on host node7"}


@pytest.mark.parametrize("ahead", [-1e6, -600.0, -100.0, 30.0, 600.0, 1e6])
def test_a_live_owner_keeps_its_run_whatever_the_clocks_say(tmp_path: Path, watch: Watch, ahead: float) -> None:
    """A laptop that woke up, a server whose time was put right, machines whose clocks differ."""
    record(tmp_path, 1, elsewhere(), age=-ahead)
    beat, seconds = beats(tmp_path, ahead), [0.0]

    def at_times() -> None:
        seconds[0] += 1
        if seconds[0] % TIMES.heartbeat == 0:
            beat()

    watch.happens = at_times
    for _ in range(3):
        with pytest.raises(LeasedElsewhere, match="process 4242 on host node7"):
            FileLease(tmp_path)
    assert os.listdir(tmp_path / FOLDER) == ["1.json"]


def test_a_clock_that_is_set_while_one_watches(tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, 1, elsewhere(), age=100)
    shift = [0.0]
    monkeypatch.setattr(lease_module, "file_system_time", lambda folder: time.time() + shift[0])
    jumps = iter([-7200.0, 3600.0, -1e6, 0.0])
    watch.happens = lambda: shift.__setitem__(0, next(jumps, -500.0))
    with FileLease(tmp_path) as lease:
        assert lease.attempt == 2
    assert watch.now - 1000 <= TIMES.stale + 2


def test_who_is_asked_to_stop_watches_no_longer(tmp_path: Path, watch: Watch) -> None:
    record(tmp_path, 1, elsewhere(), age=-1e6)

    def stop(attempt: Attempt) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FileLease(tmp_path, watching=stop)
    assert os.listdir(tmp_path / FOLDER) == ["1.json"]


def test_who_looks_again_and_again_need_not_be_told_by_a_date(tmp_path: Path, watch: Watch) -> None:
    """As a driver does, which does not wait; a look after a long sleep of its own counts no more than another."""
    record(tmp_path, 1, elsewhere(), age=-1e6)
    looks = []
    for _ in range(20):
        attempt = latest_attempt(tmp_path)
        assert attempt is not None
        looks.append(attempt.is_live(60))
        watch.now += LATE if len(looks) > 1 else 1e6
    assert looks.index(False) == 60 / LATE


def lose(owner: Owner) -> None:
    """Ray has lost the owner's process."""
    note_lost([Process(owner.machine, owner.pid, owner.started)])


@pytest.mark.parametrize(("age", "waits"), [(0.0, LOST), (13.0, LOST - 13), (50.0, 0.0), (-600.0, LOST)])
def test_an_owner_that_ray_has_lost_is_replaced_soon_after_its_last_heartbeat(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, age: float, waits: float
) -> None:
    record(tmp_path, 1, elsewhere(), age=age)
    before = latest_attempt(tmp_path)
    assert before is not None
    assert before.is_live()
    lose(elsewhere())
    assert before.is_live() == (age < LOST)
    monkeypatch.setattr(lease_module, "file_system_time", lambda folder: time.time() + watch.now - 1000)
    with FileLease(tmp_path) as lease:
        assert lease.attempt == 2
    assert watch.now - 1000 == pytest.approx(waits, abs=1.5)


@pytest.mark.parametrize("ahead", [-600.0, 0.0, 600.0])
def test_an_owner_that_ray_has_lost_and_that_beats_keeps_its_run(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """Behind a broken network, it still reaches the store."""
    record(tmp_path, 1, elsewhere(), age=-ahead if ahead > 0 else 0.0)
    lose(elsewhere())
    beat = beats(tmp_path, ahead)
    watch.happens = lambda: beat() if watch.now - 1000 >= TIMES.heartbeat else None
    with pytest.raises(LeasedElsewhere, match="process 4242 on host node7"):
        FileLease(tmp_path)
    assert os.listdir(tmp_path / FOLDER) == ["1.json"]


def test_whoever_came_first_after_the_watch_has_it(tmp_path: Path, watch: Watch) -> None:
    record(tmp_path, 1, elsewhere(), age=100)
    watch.happens = lambda: record(tmp_path, 2, replace(elsewhere(), token="faster")) if watch.now > 1010 else None
    with pytest.raises(LeasedElsewhere, match="in use"):
        FileLease(tmp_path)


def test_a_reused_process_id_is_another_process(tmp_path: Path) -> None:
    mine = Owner.current()
    record(tmp_path, 1, replace(mine, started=mine.started - 1))
    with FileLease(tmp_path) as lease:
        assert lease.attempt == 2


def test_another_machine_is_judged_by_its_heartbeat(tmp_path: Path, watch: Watch) -> None:
    record(tmp_path, 1, elsewhere(), age=10)
    with pytest.raises(InputError, match=r"process 4242 on host node7.*30 s after its last heartbeat"):
        FileLease(tmp_path, replace(TIMES, stale=30))
    with FileLease(tmp_path, replace(TIMES, stale=5)) as lease:
        assert lease.attempt == 2


def test_an_unreadable_claim_is_respected_until_stale(tmp_path: Path, watch: Watch) -> None:
    record(tmp_path, 1, elsewhere())
    (tmp_path / FOLDER / "1.json").write_text("")
    with pytest.raises(InputError, match="an unknown process"):
        FileLease(tmp_path)
    os.utime(tmp_path / FOLDER / "1.json", (1, 1))
    with FileLease(tmp_path) as lease:
        assert lease.attempt == 2


def test_the_heartbeat_is_told_by_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, 1, elsewhere(), age=10)
    monkeypatch.setattr(time, "time", lambda: 1e12)  # our clock is far off; the files' is not
    attempt = latest_attempt(tmp_path)
    assert attempt is not None
    assert 9 < attempt.age < 60
    assert os.listdir(tmp_path / FOLDER) == ["1.json"]


def test_the_heartbeat_beats(tmp_path: Path) -> None:
    with FileLease(tmp_path, replace(TIMES, heartbeat=0.01)):
        path = tmp_path / FOLDER / "1.json"
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def test_who_was_taken_over_stops_writing(tmp_path: Path) -> None:
    lease = FileLease(tmp_path)
    record(tmp_path, 2, elsewhere())
    with pytest.raises(RunError, match=r"attempt 1\) no longer owns .*attempt 2 does \(process 4242 on host node7"):
        lease.check()
    lease.release()
    attempt = latest_attempt(tmp_path)
    assert attempt is not None
    assert attempt.number == 2
    assert attempt.is_live()


def test_a_removed_run_stops_its_owner(tmp_path: Path) -> None:
    with FileLease(tmp_path / "run") as lease:
        (tmp_path / "run" / FOLDER / "1.json").unlink()
        (tmp_path / "run" / FOLDER).rmdir()
        with pytest.raises(RunError, match="its folder was removed"):
            lease.check()
    assert not (tmp_path / "run" / FOLDER).exists()


def test_of_two_contenders_for_a_dead_owners_run_one_wins(tmp_path: Path) -> None:
    for attempt in range(3):
        run = tmp_path / str(attempt)
        dead = start(HOLD, run)
        assert line(dead) == "1"
        finish(dead)
        contenders = [start(CONTEND, run) for _ in range(3)]
        try:
            assert [line(contender) for contender in contenders] == ["ready"] * 3
            for contender in contenders:
                assert contender.stdin is not None
                contender.stdin.write("\n")
                contender.stdin.flush()
            assert sorted(line(contender) for contender in contenders) == ["lost", "lost", "won 2"]
        finally:
            for contender in contenders:
                finish(contender)


def test_where_nobody_may_write(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        FileLease(tmp_path / "run")
