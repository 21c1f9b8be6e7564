"""What runs say at the control actor, and what they hear there; a real one is in tests/integration/test_faults.py."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from rt_scale.ray_backend import control as module
from rt_scale.ray_backend.control import ControlClient, StopReason, StopRequest, _Control
from rt_scale.scheduler.job import RunReport
from rt_scale.spec.errors import InputError
from rt_scale.store.lease import Process


@pytest.fixture
def draining(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Nodes that are about to go."""
    nodes: set[str] = set()
    monkeypatch.setattr(module, "draining_nodes", lambda: set(nodes))
    monkeypatch.setattr(module, "lost_node", lambda node: f"its node {node} was preempted")
    monkeypatch.setattr(module, "LOOK", 0.0)
    return nodes


def test_news_are_the_newest_states_and_every_warning(draining: set[str]) -> None:
    control = _Control()
    assert control.report("a", RunReport(step=1, warnings=("hot",)), "n1") is None
    control.report("a", RunReport(step=2, warnings=("dry",)), "n1")
    control.report("b", RunReport(step=5), "n2")
    control.report("b", None, "n1")  # a worker that is not shown
    assert control.news() == {"a": RunReport(step=2, warnings=("hot", "dry")), "b": RunReport(step=5)}
    assert control.news() == {}


def test_a_run_leaves_where_any_of_its_nodes_is_about_to_go(draining: set[str]) -> None:
    control = _Control()
    draining.add("n2")
    assert control.report("a", None, "n1") is None
    preempted = StopRequest(StopReason.PREEMPTED, "its node n2 was preempted")
    assert control.report("a", None, "n2") == preempted
    assert control.report("a", None, "n1") == preempted
    assert control.report("b", None, "n1") is None
    assert control.outcome("a") == (preempted, None, {"n1", "n2"})
    control.begin("a")
    assert control.report("a", None, "n1") is None
    assert control.outcome("a") == (None, None, {"n1"})


def test_nodes_are_looked_at_now_and_then(draining: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 60.0)
    control = _Control()
    control.report("a", None, "n1")
    draining.add("n1")
    assert control.report("a", None, "n1") is None


def test_the_driver_stops_all_and_a_rule_ends_one(draining: set[str]) -> None:
    control = _Control()
    control.end("a", "asha after 5 epochs")
    early = StopRequest(StopReason.ENDED_EARLY, "asha after 5 epochs")
    assert control.report("a", None, "n") == early
    assert control.report("b", None, "n") is None
    control.stop("the sweep was asked to stop")
    assert control.report("b", None, "n") == StopRequest(StopReason.ASKED, "the sweep was asked to stop")
    assert control.report("a", None, "n") == early


def test_what_a_worker_cannot_do_is_kept_until_the_next_start(draining: set[str]) -> None:
    control = _Control()
    refusal = InputError("no data")
    control.refuse("a", refusal)
    assert control.outcome("a") == (None, refusal, set())
    control.begin("a")
    assert control.outcome("a") == (None, None, set())


class Line:
    """An actor's handle whose calls are made here, at once."""

    def __init__(self, control: _Control) -> None:
        self._control = control

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._control, method)
        return type("Method", (), {"remote": staticmethod(lambda *given: lambda: call(*given))})


@pytest.fixture
def control(draining: set[str], monkeypatch: pytest.MonkeyPatch) -> _Control:
    """One that clients find."""
    found = _Control()
    monkeypatch.setattr("ray.get_actor", lambda name: Line(found))
    monkeypatch.setattr("ray.get", lambda call, timeout=None: call())
    context = type("Context", (), {"get_node_id": staticmethod(lambda: "n1")})
    monkeypatch.setattr("ray.get_runtime_context", context)
    return found


def test_a_client_passes_on_how_its_run_stands(control: _Control) -> None:
    client = ControlClient("a", "cuda:1")
    client.started(10, 40)
    client.stage("probing")
    client.stepped(12)
    client.logged(12, 1.5, {"x": 1.0})
    client.logged(12, 1.5, {"y": 2.0})
    client.decided("kept elsewhere")
    client.warned("hot")
    client.pass_on()
    report = RunReport(12, 40, 10, "probing", "cuda:1", 1.5, {"x": 1.0, "y": 2.0})
    assert control.news() == {"a": replace(report, warnings=("hot",))}
    client.pass_on()
    assert control.news() == {"a": report}
    assert not client.stop()


def test_a_client_reports_by_itself_and_hears_that_it_is_to_stop(
    control: _Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    control.stop("enough")
    client = ControlClient("a", "cpu", shown=False)
    with client.reporting():
        deadline = time.monotonic() + 30
        while not client.stop():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    asked = StopRequest(StopReason.ASKED, "enough")
    assert client.stop_request == asked
    assert control.process("a") is None  # another worker holds the lease
    with ControlClient("a", "cpu").reporting():
        assert control.process("a") == Process.current()
    control.news()
    assert control.news() == {}
    refusal = InputError("bad")
    client.refuse(refusal)
    assert client.outcome() == (asked, refusal, {"n1"})
    client.begin()
    assert client.outcome() == (asked, None, set())


def test_without_a_control_actor_a_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ValueError(name)

    monkeypatch.setattr("ray.get_actor", absent)
    context = type("Context", (), {"get_node_id": staticmethod(lambda: "n1")})
    monkeypatch.setattr("ray.get_runtime_context", context)
    client = ControlClient("a", "cpu")
    with client.reporting():
        client.stepped(1)
    assert not client.stop()
    assert client.outcome() == (None, None, set())
