"""What runs say at the desk, and what they hear there; a real one is in tests/integration/test_faults.py."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rt_scale.ray_backend import control as module
from rt_scale.ray_backend.control import ENDED, PREEMPTED, Messenger, _Desk


@pytest.fixture
def draining(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Nodes that are about to go."""
    nodes: set[str] = set()
    monkeypatch.setattr(module, "draining_nodes", lambda: dict.fromkeys(nodes, 0.0))
    monkeypatch.setattr(module, "LOOK", 0.0)
    return nodes


def test_news_are_the_newest_states_and_every_warning(draining: set[str]) -> None:
    desk = _Desk()
    assert desk.report("a", {"step": 1, "warnings": ["hot"]}, "n1") == ""
    desk.report("a", {"step": 2, "warnings": ["dry"]}, "n1")
    desk.report("b", {"step": 5, "warnings": []}, "n2")
    desk.report("b", None, "n1")  # a worker that is not shown
    assert desk.news() == {"a": {"step": 2, "warnings": ["hot", "dry"]}, "b": {"step": 5, "warnings": []}}
    assert desk.news() == {}


def test_a_run_leaves_where_any_of_its_nodes_is_about_to_go(draining: set[str]) -> None:
    desk = _Desk()
    draining.add("n2")
    assert desk.report("a", None, "n1") == ""
    assert desk.report("a", None, "n2") == PREEMPTED
    assert desk.report("a", None, "n1") == PREEMPTED
    assert desk.report("b", None, "n1") == ""
    assert desk.outcome("a") == (PREEMPTED, None)
    desk.begin("a")
    assert desk.report("a", None, "n1") == ""


def test_nodes_are_looked_at_now_and_then(draining: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 60.0)
    desk = _Desk()
    desk.report("a", None, "n1")
    draining.add("n1")
    assert desk.report("a", None, "n1") == ""


def test_the_driver_stops_all_and_a_rule_ends_one(draining: set[str]) -> None:
    desk = _Desk()
    desk.end("a", "asha after 5 epochs")
    assert desk.report("a", None, "n") == f"{ENDED}asha after 5 epochs"
    assert desk.report("b", None, "n") == ""
    desk.stop("the sweep was asked to stop")
    assert desk.report("b", None, "n") == "the sweep was asked to stop"
    assert desk.report("a", None, "n").startswith(ENDED)


def test_what_a_worker_cannot_do_is_kept_until_the_next_start(draining: set[str]) -> None:
    desk = _Desk()
    desk.refuse("a", "InputError", "no data")
    assert desk.outcome("a") == ("", ("InputError", "no data"))
    desk.begin("a")
    assert desk.outcome("a") == ("", None)


class Line:
    """An actor's handle whose calls are made here, at once."""

    def __init__(self, desk: _Desk) -> None:
        self._desk = desk

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._desk, method)
        return type("Method", (), {"remote": staticmethod(lambda *given: lambda: call(*given))})


@pytest.fixture
def desk(draining: set[str], monkeypatch: pytest.MonkeyPatch) -> _Desk:
    """One that messengers find."""
    found = _Desk()
    monkeypatch.setattr("ray.get_actor", lambda name: Line(found))
    monkeypatch.setattr("ray.get", lambda call, timeout=None: call())
    context = type("Context", (), {"get_node_id": staticmethod(lambda: "n1")})
    monkeypatch.setattr("ray.get_runtime_context", context)
    return found


def test_a_messenger_passes_on_how_its_run_stands(desk: _Desk) -> None:
    messenger = Messenger("a", "cuda:1")
    messenger.started(10, 40)
    messenger.stage("probing")
    messenger.stepped(12)
    messenger.logged(12, 1.5, {"x": 1.0})
    messenger.logged(12, 1.5, {"y": 2.0})
    messenger.decided("kept elsewhere")
    messenger.warned("hot")
    messenger.pass_on()
    state = {
        "step": 12, "steps": 40, "began": 10, "stage": "probing", "values": {"x": 1.0, "y": 2.0}, "epoch": 1.5,
        "where": "cuda:1", "warnings": ["hot"],
    }  # fmt: skip
    assert desk.news() == {"a": state}
    messenger.pass_on()
    assert desk.news() == {"a": {**state, "warnings": []}}
    assert (messenger.steps, messenger.values) == (40, {"x": 1.0, "y": 2.0})
    assert not messenger.stop()


def test_a_messenger_reports_by_itself_and_hears_that_it_is_to_stop(
    desk: _Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    desk.stop("enough")
    messenger = Messenger("a", "cpu", shown=False)
    with messenger.reporting():
        deadline = time.monotonic() + 30
        while not messenger.stop():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert messenger.told == "enough"
    assert desk.news() == {}
    messenger.refuse(ValueError("bad"))
    assert messenger.outcome() == ("enough", ("ValueError", "bad"))
    messenger.begin()
    assert messenger.outcome() == ("enough", None)


def test_without_a_desk_a_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ValueError(name)

    monkeypatch.setattr("ray.get_actor", absent)
    context = type("Context", (), {"get_node_id": staticmethod(lambda: "n1")})
    monkeypatch.setattr("ray.get_runtime_context", context)
    messenger = Messenger("a", "cpu")
    with messenger.reporting():
        messenger.stepped(1)
    assert not messenger.stop()
    assert messenger.outcome() == ("", None)
