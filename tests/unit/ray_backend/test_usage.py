"""The driver's meter, on nodes that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.ray_backend import usage as module
from rt_scale.ray_backend.usage import SAMPLE_S, WRITE_AWAY_S, WRITE_S, Meter
from rt_scale.scheduler.job import Job, RunReport
from rt_scale.spec.errors import StoreUnavailable
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.store import Store
from rt_scale.store.usage import Planned, Usage, read_usage

JOB = Job(
    "run",
    RunSpec.model_validate({"data": {"name": "digits"}, "encoder": {"name": "convnet_4_1"}}),
    LaunchSpec(gpus=0.5, cpus=3),
)

A, B = "f" * 52 + "0001", "f" * 52 + "0002"
"""Ids of nodes, which differ at their ends as those of pretended ones do."""


class World:
    """A clock, nodes and what is free of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.nodes: dict[str, dict[str, float]] = {}
        self.free: dict[str, dict[str, float]] = {}
        monkeypatch.setattr(module.time, "time", lambda: self.now)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module.ray, "nodes", self._nodes)
        monkeypatch.setattr(module, "available_resources_per_node", lambda: self.free)

    def _nodes(self) -> list[dict[str, Any]]:
        dead = {"NodeID": "dead", "Alive": False, "NodeManagerAddress": "10.0.0.9", "Resources": {"CPU": 64}}
        there = [
            {"NodeID": key, "Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": has}
            for key, has in self.nodes.items()
        ]
        return [dead, *there]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def recorded(store: Store) -> Usage:
    (found,) = read_usage([store.sweep("s")])
    return found


def test_nodes_are_counted_from_their_first_look_to_their_last(world: World, tmp_path: Path) -> None:
    store = Store(tmp_path)
    meter = Meter([store.sweep("s"), store.sweep("t")], store.place, Planned(hours=2.0))
    world.nodes = {"head": {"CPU": 0}, A: {"CPU": 8, "GPU": 2, "accelerator_type:A10G": 1, "memory": 1e9}}
    world.free = {A: {"CPU": 8, "GPU": 2}}
    meter.look()
    world.free, world.nodes[B] = {A: {"CPU": 2, "GPU": 0.5}, B: {"CPU": 4}}, {"CPU": 4}
    world.now += SAMPLE_S / 2
    meter.look()
    assert B not in [stay.node for stay in meter.usage().nodes]
    for _ in range(2):
        world.now += 10
        meter.look()
    del world.nodes[A]
    world.now += 10
    meter.close()
    found = recorded(store)
    assert found.sweeps == ("s", "t")
    assert read_usage([store.sweep("t")]) == [found]
    assert (found.start, found.end, found.planned) == (1000, 1032.5, Planned(hours=2.0))
    first, second = found.nodes
    assert (first.node, first.name, first.accelerator, first.has) == (A, "10.0.0.1", "A10G", {"gpu": 2, "cpu": 8})
    assert (first.start, first.end, first.held) == (1000, 1022.5, {"gpu": 1.5 * 22.5, "cpu": 6 * 22.5})
    assert (second.node, second.start, second.end, second.held) == (B, 1012.5, 1032.5, {"gpu": 0, "cpu": 0})


def test_it_records_now_and_then_and_seldom_in_an_object_store(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []
    monkeypatch.setattr(module, "write_usage", lambda *_: written.append(world.now))
    for place, every in (("a folder", WRITE_S), ("s3://bucket/x", WRITE_AWAY_S)):
        meter, begun = Meter([Store(tmp_path).sweep("s")], place), world.now
        written.clear()
        while world.now < begun + 4 * every:
            meter.look()
            world.now += 1
        assert written == [begun + times * every for times in range(4)]

    def refused(*_: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(module, "write_usage", refused)
    monkeypatch.setattr(module.ray, "nodes", refused)
    meter.look()
    meter.close()


def test_steps_that_are_computed_twice_are_lost(world: World, tmp_path: Path) -> None:
    store = Store(tmp_path)
    meter = Meter([store.sweep("s")], store.place)
    meter.reported(JOB, RunReport(step=0))
    for began, step, after in ((0, 0, 1), (0, 50, 100), (20, 20, 30), (20, 40, 10)):
        world.now += after
        meter.reported(JOB, RunReport(step=step, began=began))
    # 30 of 50 steps again, of two seconds each.
    assert (meter.usage().lost, meter.usage().interruptions) == ({"gpu": 30.0, "cpu": 180.0}, 1)
    meter.close()
    # A driver that was killed, and the next one: 20 steps of half a second.
    after = Meter([store.sweep("s")], store.place)
    world.now += 60
    after.reported(JOB, RunReport(step=20, began=20))
    assert (after.usage().lost, after.usage().interruptions) == ({"gpu": 5.0, "cpu": 30.0}, 1)
    after.ended(JOB, final=True)
    after.reported(JOB, RunReport(step=0, began=0))
    assert after.usage().interruptions == 1


def test_a_run_that_goes_on_where_it_was_stopped_loses_nothing(world: World, tmp_path: Path) -> None:
    meter = Meter([Store(tmp_path).sweep("s")], "a folder")
    for began, step in ((0, 0), (0, 50), (50, 50), (50, 60)):
        if began == step == 50:
            meter.ended(JOB, final=False)
        world.now += 10
        meter.reported(JOB, RunReport(step=step, began=began))
    assert (meter.usage().lost, meter.usage().interruptions) == ({}, 0)


def test_a_run_that_was_soon_further_than_before_was_interrupted_all_the_same(world: World, tmp_path: Path) -> None:
    meter = Meter([Store(tmp_path).sweep("s")], "a folder")
    meter.reported(JOB, RunReport(step=0, began=0))
    world.now += 10
    meter.reported(JOB, RunReport(step=5, began=0))
    meter.ended(JOB, final=False)
    world.now += 10
    meter.reported(JOB, RunReport(step=70, began=0))
    assert (meter.usage().lost, meter.usage().interruptions) == ({"gpu": 5.0, "cpu": 30.0}, 1)
