"""What drivers record of nodes, and how it adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.store.store import Store
from rt_scale.store.usage import NodeUse, RunProgress, Usage, latest_progress, read_usage, stays, total, write_usage


def stay(node: str, start: float, end: float, held: float = 0.0) -> NodeUse:
    return NodeUse(node=node, name=node, has={"gpu": 0, "cpu": 4}, start=start, end=end, held={"cpu": held})


def usage(session: str, start: float, end: float, *nodes: NodeUse, **more: Any) -> Usage:
    return Usage(session=session, sweeps=("s",), start=start, end=end, nodes=nodes, **more)


def test_each_driver_has_a_record_and_that_of_two_sweeps_counts_once(tmp_path: Path) -> None:
    one, two = Store(tmp_path).sweep("one"), Store(tmp_path).sweep("two")
    late, early = usage("bb", 20, 30, stay("n", 20, 30)), usage("aa", 0, 10)
    for each in (late, early):
        write_usage(one, each)
    write_usage(two, late)
    write_usage(one, usage("aa", 0, 12))
    (one.path / "usage_cc.json").write_text("{")
    assert [(each.session, each.end) for each in read_usage([one, two])] == [("aa", 12), ("bb", 30)]
    assert read_usage([Store(tmp_path).sweep("none")]) == []


def test_what_two_drivers_saw_at_once_counts_once() -> None:
    both = [usage("a", 0, 100, stay("n", 0, 100, 300)), usage("b", 50, 150, stay("n", 50, 150, 200), stay("m", 60, 70))]
    found = stays(both)
    assert [(each.node, each.start, each.end, each.held["cpu"]) for each in found] == [
        ("n", 0, 100, 300), ("n", 100, 150, 100), ("m", 60, 70, 0)
    ]  # fmt: skip
    assert stays([both[0], usage("c", 10, 20, stay("n", 10, 20))]) == [both[0].nodes[0]]
    assert total(each.held for each in found) == {"cpu": 400}


def test_a_next_driver_knows_how_far_runs_were() -> None:
    def at(step: int) -> RunProgress:
        return RunProgress(began=0, since=0, step=step, seen=10, holds={"cpu": 1})

    earlier, later = usage("a", 0, 10, live={"r": at(5), "s": at(7)}), usage("b", 10, 20, live={"r": at(9)})
    found = latest_progress([later, earlier])
    assert {name: progress.step for name, progress in found.items()} == {"r": 9, "s": 7}
    assert found["r"].step_seconds == pytest.approx(10 / 9)
    assert at(0).step_seconds == 0
