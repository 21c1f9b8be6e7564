from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.report import status
from rt_scale.report.status import (
    StatusRow,
    count_by_sweep,
    listed,
    matching,
    show_status,
    status_of_store,
    status_of_sweep,
)
from rt_scale.spec.differences import parse_condition
from rt_scale.spec.grid import Point
from rt_scale.store.store import Preemptions, Store
from rt_scale.system.console import PlainConsole
from tests.records import run_result

STATES = ["done", "running", "failed", "partial", "missing"]


@pytest.fixture
def points(point: Callable[..., Point]) -> list[Point]:
    return [point({"student.alpha": number / 10}) for number in range(5)]


@pytest.fixture
def store(tmp_path: Path, points: list[Point]) -> Store:
    """A store with one run in each state; the running one is ours."""
    store = Store(tmp_path / "store")
    for state, point in zip(STATES[:-1], points[:-1], strict=True):
        run_dir = store.run(point.spec)
        lease = run_dir.acquire()
        run_dir.write_spec(point.spec)
        if state == "done":
            run_dir.complete(run_result())
        if state == "failed":
            run_dir.fail({"reason": "The loss is nan."})
        if state != "running":
            lease.release()
    return store


def test_every_state_of_a_sweep_in_its_order(store: Store, points: list[Point]) -> None:
    rows = status_of_sweep(points, store)
    assert [row.state for row in rows] == STATES
    assert [row.label for row in rows] == [point.label for point in points]
    assert [row.attempts for row in rows] == [1, 1, 1, 1, 0]
    assert rows[1].detail.startswith(f"process {os.getpid()} on host ")
    assert "heartbeat" in rows[1].detail
    assert rows[2].detail == "The loss is nan."
    assert rows[0].detail == rows[3].detail == rows[4].detail == ""
    assert rows[2].to_json() == {
        "label": "alpha=0.2,seed=0",
        "name": points[2].spec.name,
        "state": "failed",
        "attempts": 1,
        "detail": "The loss is nan.",
        "other_data": "",
    }


def test_a_run_that_its_rule_ended_is_no_loose_end(store: Store, points: list[Point]) -> None:
    early = {point.spec.name: "asha after 5 epochs" for point in (points[0], points[3])}
    rows = status_of_sweep(points, store, early)
    assert [row.state for row in rows] == ["done", "running", "failed", "ended", "missing"]
    assert rows[3].detail == "asha after 5 epochs"


def test_a_run_that_lost_its_node_says_so(store: Store, points: list[Point]) -> None:
    lost = {point.spec.name: Preemptions(2, "its node 10.0.0.3 was lost") for point in points}
    rows = status_of_sweep(points, store, preempted=lost)
    assert [row.state for row in rows] == ["done", "running", "failed", "partial", "missing"]
    assert rows[3].detail == "preempted: its node 10.0.0.3 was lost (2 times so far)"
    assert "preempted" not in rows[0].detail + rows[1].detail + rows[2].detail


def test_a_store_shows_what_was_begun(store: Store, points: list[Point]) -> None:
    rows = status_of_store(store)
    assert {row.label: row.state for row in rows} == {
        point.spec.name: state for point, state in zip(points[:-1], STATES[:-1], strict=True)
    }


def test_a_store_lacks_what_its_sweeps_list(store: Store, points: list[Point]) -> None:
    names = [point.spec.name for point in points]
    store.sweep("all").write("", [*names, "distill-0"])
    store.sweep("some").write("", [names[4], names[0]])
    store.sweep("never-run").path.mkdir()
    rows = status_of_store(store)
    assert [row.name for row in rows] == [*sorted(names[:4]), names[4], "distill-0"]
    assert rows[4] == StatusRow(names[4], names[4], "missing", 0, "of sweep all")
    assert count_by_sweep(rows, store) == [
        ("all", "6", "1", "1", "1", "0", "1", "2"),
        ("some", "2", "1", "0", "0", "0", "0", "1"),
    ]


def test_folders_of_a_store_that_hold_no_run(store: Store) -> None:
    """One that is being removed, one that a process has claimed and written nothing to, and one that is nobody's."""
    (store.root / "runs" / ".tmp-distill-1-abcd").mkdir()
    (store.root / "runs" / ".tmp-distill-1-abcd" / "result.json").touch()
    (store.root / "runs" / "distill-1").mkdir()
    with store.run("distill-2").acquire():
        pass
    rows = {row.name: row.state for row in status_of_store(store)}
    assert rows.pop("distill-2") == "partial"
    assert rows.keys() == {run.name for run in store}
    assert len(rows) == 4


def shown(rows: Any, width: int = 200) -> str:
    console = PlainConsole(width=width, record=True)
    show_status(rows, console)
    return console.export_text()


def test_runs_of_a_store_are_named_by_what_differs_and_done_ones_come_last(
    store: Store, points: list[Point], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = listed(status_of_store(store), store)
    assert {row.name: row.label for row in rows} == {point.spec.name: point.label for point in points[:4]}
    assert [row.state == "done" for row in rows] == [False, False, False, True]
    store.run("distill-0").acquire().release()  # it has no spec
    assert {row.label for row in listed(status_of_store(store), store)} > {"distill-0", points[0].label}
    monkeypatch.setattr(status, "LISTED", 2)
    assert len(listed(rows, store)) == 2


def test_states_and_conditions_choose_rows(store: Store, points: list[Point]) -> None:
    rows = status_of_sweep(points, store)
    specs = {point.spec.name: point.spec.canonical() for point in points[:4]}

    def chosen(states: list[str], *conditions: str) -> list[str]:
        return [row.state for row in matching(rows, states, [parse_condition(each) for each in conditions], specs.get)]

    assert chosen([]) == STATES
    assert chosen(["failed", "missing"]) == ["failed", "missing"]
    assert chosen([], "student.alpha>=0.1") == ["running", "failed", "partial"]
    assert chosen(["failed"], "student.alpha>0.1", "student.alpha!=0.3") == ["failed"]


def test_a_directory_is_named_once(store: Store, points: list[Point]) -> None:
    assert shown(status_of_store(store)).count(points[2].spec.name) == 1
    assert shown(status_of_sweep(points, store)).count(points[2].spec.name) == 1


def test_what_is_not_done_is_listed_and_all_is_counted(store: Store, points: list[Point]) -> None:
    text = shown(status_of_sweep(points, store))
    for point, state in zip(points, STATES, strict=True):
        assert (point.label in text) is (state != "done")
    assert text.rstrip().endswith("5 runs: 1 done, 1 running, 1 failed, 1 partial, 1 missing")


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_cuts_neither_values_nor_reasons(width: int) -> None:
    label = "encoder.name=preresnet18,data.name=cifar10_jpeg,out_dim=16384,seed=3"
    reason = "The loss is nan after 1,234 steps."
    rows = [StatusRow(label, "distill-0123456789abcdef", "failed", 2, reason)] * 2
    text = shown(rows, width)
    assert max(map(len, text.splitlines())) <= width
    for whole in (*label.split(","), *reason.split(), "distill-0123456789abcdef", "2 runs: 2 failed"):
        assert whole in text


def test_a_finished_sweep_and_an_empty_store_are_one_line(store: Store, points: list[Point], tmp_path: Path) -> None:
    assert shown(status_of_sweep(points[:1], store)) == "1 run: 1 done\n"
    assert shown(status_of_store(Store(tmp_path / "none"))) == "0 runs: none\n"


def test_a_reason_with_brackets_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Paths and messages of libraries hold what a terminal library could take for its markup."""
    row = StatusRow("norm=[bold]", "distill-0", "failed", 1, "no tensor of shape [batch, m] in '[red]'")
    show_status([row], PlainConsole(width=200))
    shown = capsys.readouterr().out
    assert "norm=[bold]" in shown
    assert "no tensor of shape [batch, m] in '[red]'" in shown
