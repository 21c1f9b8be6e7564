from __future__ import annotations

import re
from pathlib import Path

from rt_scale.progress.terminal import QUIET, WINDOW, SweepView
from rt_scale.scheduler.job import View
from tests.unit.progress.watched import PROBES, VALUES, Watched, report


def test_it_is_a_view() -> None:
    view: View = Watched(terminal=False).view
    assert isinstance(view, SweepView)


def test_a_pipe_gets_a_line_a_run() -> None:
    watched = Watched(terminal=False, total=5, done_before=2)
    with watched.view as view:
        view.running("alpha=0.5,seed=0", report(1, "cuda:0", values=VALUES))
        view.running("alpha=1,seed=0", report(1))
        view.running("alpha=1,seed=0", report(1, warnings=("Checkpoint [3] is\ndamaged",)))
        watched.now += 18
        view.finished("alpha=0.5,seed=0", None)
        view.finished("alpha=0.5,seed=0", None)
        view.finished("alpha=1,seed=0", "The loss is nan [really].\n  See [red]the[/red] \x1b[31mlog.")
        view.finished("alpha=2,seed=0", None, VALUES)
    assert watched.lines == [
        "warning alpha=1,seed=0: Checkpoint [3] is damaged",
        f"[3/5] alpha=0.5,seed=0  {PROBES}  18s on cuda:0",
        "[4/5] alpha=1,seed=0  FAILED: The loss is nan [really]. See [red]the[/red] [31mlog.",
        f"[5/5] alpha=2,seed=0  {PROBES}",
    ]


def test_the_last_measurements_of_a_run_count() -> None:
    watched = Watched(terminal=False)
    with watched.view as view:
        view.running("a", report(1, values=VALUES))
        view.finished("a", None, {"probe/student/linear": 0.5})
        view.running("b", report(1, where=""))
        view.finished("b", None)
    assert watched.lines == ["[1/5] a  linear 50.0 (teacher 25.0), knn 90.0  0s on cpu", "[2/5] b  0s"]


def test_a_late_report_of_a_run_that_is_through_changes_nothing() -> None:
    watched = Watched(terminal=False)
    with watched.view as view:
        view.finished("a", None)
        view.running("a", report(3))
        view.waiting("a", "its process died", 1.0)
        view.stopped("a", "it was worse than others")
        assert watched.summary().startswith("1 of 5 done, 4 to start; ")
    assert watched.lines[0] == "[1/5] a"


def test_a_run_that_was_ended_early_is_settled() -> None:
    watched = Watched(terminal=False)
    with watched.view as view:
        view.running("a", report(3, values=VALUES))
        watched.now += 5
        view.stopped("a", "below the median\nof the others")
        assert "0 of 5 done, 1 stopped early, 4 to start; " in watched.summary()
    assert watched.lines[0] == f"[1/5] a  stopped early: below the median of the others  {PROBES}  5s on cpu"


def test_a_run_that_left_its_device_is_a_line_and_waits() -> None:
    watched = Watched(terminal=False)
    with watched.view as view:
        view.running("a", report(3))
        watched.now += 10
        view.waiting("a", "its process died (attempt 2 of 4)", 8.0)
        view.waiting("b", "process 7 on host far", None, leased_elsewhere=True)
        view.waiting("c", "process 7 on host far", 40.0, leased_elsewhere=True)
        watched.now += 3
        watched.view.tick()
        assert watched.shown() == [
            "0 of 5 done, 3 waiting, 2 to start",
            "13s so far, time left not known yet",
            "waiting: run by process 7 on host far (2), its process died (attempt 2 of 4); tried again in 5s",
        ]
        watched.now += 5
        assert watched.shown()[-1].endswith("(attempt 2 of 4); tried again in 32s")
        view.running("a", report(5))
        watched.now += 7
        view.finished("a", None)
    assert watched.lines == [
        "waiting a: its process died (attempt 2 of 4), again in 8s",
        "[1/5] a  17s on cpu",
    ]


def test_a_run_that_another_driver_holds_is_a_short_line_and_its_end_says_by_whom() -> None:
    watched = Watched(terminal=False)
    with watched.view as view:
        view.running("a", report(0))
        view.waiting("a", "process 7 on host far", 5.0, leased_elsewhere=True)
        watched.now += 60
        view.finished("a", None, VALUES, "another driver on far")
        view.running("b", report(0))
        assert "left not known" in watched.shown()[-1] or "time left" in watched.summary()
    assert watched.lines[:2] == ["held a: by process 7 on host far", f"[1/5] a  {PROBES}  by another driver on far"]


def test_a_long_line_is_broken_between_words_in_a_terminal_alone() -> None:
    label, why = f"parts=wn/lb/fn/wn/l/fn,alpha=1e-10,{'x' * 60}=1,seed=1", "The loss is nan. " * 9
    for terminal in (True, False):
        watched = Watched(terminal=terminal)
        with watched.view as view:
            view.finished(label, why.strip())
        told = re.sub("\x1b[^a-zA-Z]*[a-zA-Z]", "", watched.written).strip().splitlines()
        first = next(number for number, line in enumerate(told) if line.startswith("[1/5]"))
        told = told[first : first + 2] if terminal else told
        assert all(len(line) <= 160 for line in told if terminal)
        assert " ".join(" ".join(told).split()) == f"[1/5] {label} FAILED: {why.strip()}"


def test_a_run_waits_until_it_runs_again_or_is_through() -> None:
    watched = Watched(terminal=False)
    with watched.view as view:
        for label in ("a", "b", "c"):
            view.waiting(label, "process 7 on host far", None, leased_elsewhere=True)
        view.running("a", report(0))
        view.finished("b", None)
        assert "1 of 5 done, 1 running, 1 waiting, 2 to start" in watched.shown()


def test_the_time_left_counts_runs_that_wait_and_slots_that_are_lost() -> None:
    watched = Watched(terminal=False, total=4)

    def left() -> str:
        return watched.shown()[2].rpartition("about ")[2]

    with watched.view as view:
        view.running("a", report(0))
        view.running("b", report(0))
        watched.now += 100
        view.finished("a", None)
        view.running("c", report(0))
        view.waiting("b", "its node was removed", None)
        assert left() == "3m 20s left"  # b beside c, and d after them
        watched.now += WINDOW
        assert left() == "4m 00s left"  # one after the other


def test_a_retry_whose_time_is_not_known_is_a_line_without_one() -> None:
    watched = Watched(terminal=False)
    with watched.view as view:
        view.running("a", report(3))
        view.waiting("a", "the store [s3] did not answer", None)
    assert watched.lines == ["waiting a: the store [s3] did not answer"]
    assert watched.shown()[-1] == "waiting: the store [s3] did not answer"


def test_a_preempted_run_is_told_and_counted() -> None:
    watched = Watched(terminal=False)
    with watched.view as view:
        view.running("a", report(3))
        view.preempted("a", "its node 10.0.0.3 was lost", None)
        view.running("a", report(3))
        view.preempted("a", "its node 10.0.0.4 was preempted", 2.0)
    assert watched.lines == [
        "preempted a: its node 10.0.0.3 was lost; it continues from its last checkpoint at once",
        "preempted a: its node 10.0.0.4 was preempted; it continues from its last checkpoint in 2s",
    ]
    assert "1 waiting, 4 to start, 2 preempted so far" in watched.shown()[0]


def test_a_process_that_died_before_it_said_anything_is_a_line() -> None:
    watched = Watched(terminal=False)
    with watched.view as view:
        view.waiting("a", "its process died; try 2 of 4", None)
        view.waiting("b", "process 7 on host far", 5.0, leased_elsewhere=True)
        view.waiting("a", "its process died; try 3 of 4", 1.0)
    assert watched.lines == [
        "waiting a: its process died; try 2 of 4",
        "waiting a: its process died; try 3 of 4, again in 1s",
    ]


def test_a_pipe_is_told_how_it_stands_every_half_minute_and_no_more() -> None:
    watched = Watched(terminal=False, total=24, done_before=2)
    with watched.view as view:
        view.running("a", report(0, "cuda:0"))
        view.running("b", report(0, "cuda:1"))
        view.running("c", report(0, "cuda:1"))
        view.running("a", report(1, "cuda:0"))
        watched.now += QUIET - 14
        view.running("a", report(5, "cuda:0", values=VALUES))
        assert watched.lines == []
        watched.now += 14
        view.tick()
        view.tick()
        watched.now += QUIET - 14
        view.finished("a", None)
        view.finished("b", "diverged")
        assert len(watched.lines) == 3
        watched.now += 14
        view.tick()
    assert [line for line in watched.lines if not line.startswith("[")] == [
        "2 of 24 done, 3 running, 19 to start; 30s so far, at least 4m 50s left; "
        f"best of those run now: {PROBES.partition(',')[0]}  a; running on cuda:0, cuda:1",
        "3 of 24 done, 1 running, 1 failed, 19 to start; 1m 00s so far, 60 runs an hour, about 5m 22s left; "
        f"best of those run now: {PROBES.partition(',')[0]}  a; running on cuda:1",
    ]


def test_many_devices_are_not_all_named() -> None:
    watched = Watched(terminal=False, total=6)
    with watched.view as view:
        for number in range(6):
            view.running(str(number), report(0, f"cuda:{number}"))
        assert watched.summary().endswith("; running on cuda:0, cuda:1, cuda:2, cuda:3, ...")


def test_runs_that_join_are_counted() -> None:
    watched = Watched(terminal=False, total=2)
    with watched.view as view:
        view.added(3)
        view.finished("a", None)
        assert watched.summary().startswith("1 of 5 done, 4 to start; ")
    assert watched.lines[0] == "[1/5] a"


def test_a_sweep_that_is_through_has_no_time_left() -> None:
    watched = Watched(terminal=False, total=1)
    with watched.view as view:
        view.finished("a", None)
        assert watched.summary() == "1 of 1 done; 30s so far, 120 runs an hour"


def test_the_best_run_is_that_of_the_first_probe_that_there_is() -> None:
    watched = Watched(terminal=False)

    def best() -> str:
        return next((line for line in watched.shown() if line.startswith("best")), "")

    with watched.view as view:
        assert best() == ""
        view.finished("[a]", None, {"test/accuracy": 0.99})
        assert best() == "best so far: test accuracy 99.0  [a]"
        view.finished("b", None, {"probe/student/knn": 0.3})
        view.finished("c", None, {"probe/student/knn": 0.2})
        assert best() == "best so far: knn 30.0  b"
        view.finished("d", "diverged", VALUES)
        view.finished("e", None, {"probe/student/linear": float("nan")})
        assert best() == "best so far: knn 30.0  b"
        view.running("f", report(3, values=VALUES))
        assert best() == "best so far: linear 45.7 (teacher 25.0)  f"
        # What counts of a run that is running is where it stands.
        view.running("f", report(4, values={"probe/student/linear": 0.1}))
        view.running("g", report(4, values={"probe/student/linear": 0.2}))
        assert best() == "best so far: linear 20.0  g"


def test_the_log_is_named_first_and_what_was_said_is_kept() -> None:
    watched = Watched(terminal=False, log=Path("/store/[logs]/ray.log"))
    with watched.view as view:
        view.said("the dashboard is at [http://127.0.0.1:8265]\x07")
    assert watched.lines == ["Ray's log: /store/[logs]/ray.log", "the dashboard is at [http://127.0.0.1:8265]"]
    assert Watched(terminal=False).lines == []


def test_a_pipe_gets_no_control_characters() -> None:
    watched = Watched(terminal=False, log=Path("/log"))
    with watched.view as view:
        view.running(
            "a", report(3, "cuda:0\x1b[2J", stage="\x1b]0;title\x07", values=VALUES, warnings=("\x1b[31mred",))
        )
        view.waiting("a", "died\r\x08", 3.0)
        view.finished("b\x1b[1A", "why\x00")
        watched.summary()
    assert all(line.isprintable() for line in watched.lines), watched.lines


def test_a_failure_is_told_once_with_the_counts() -> None:
    told: list[tuple[object, ...]] = []
    console = Watched(terminal=False).console
    with SweepView(console, 9, 2, failed=lambda *each: told.append(each)) as view:
        view.finished("a", None)
        view.stopped("b", "by the rule")
        view.added(1)
        for _ in range(2):
            view.finished("c", "It diverged.")
    assert told == [("c", "It diverged.", {"runs": 10, "done": 3, "failed": 1, "ended": 1, "preempted": 0})]
