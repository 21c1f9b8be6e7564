"""What is said where a cluster cannot be joined; the asking itself is in the integration tests."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rt_scale.ray_backend import probe as module
from rt_scale.ray_backend.probe import port_answers, probe
from rt_scale.scheduler.job import Where, asked_address
from rt_scale.spec.errors import InputError
from rt_scale.store.store import Store


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def answers(monkeypatch: pytest.MonkeyPatch, **answer: Any) -> None:
    same = {"address": "10.0.0.1:6379", "ray": "2", "our_ray": "2", "python": platform.python_version()}
    monkeypatch.setattr(module, "_probe_in_process", lambda address: same | answer)


def refusal(address: str) -> str:
    with pytest.raises(InputError) as error:
        probe(address)
    return str(error.value)


@pytest.mark.parametrize(
    ("given", "variable", "asked"),
    [
        (None, None, ("local", False)),
        (None, "", ("local", False)),
        ("auto", None, ("auto", False)),
        ("local", "10.0.0.1:6379", ("local", False)),
        ("10.0.0.2:6379", "10.0.0.1:6379", ("10.0.0.2:6379", False)),
        (None, " 10.0.0.1:6379 ", ("10.0.0.1:6379", True)),
        ("auto", "10.0.0.1:6379", ("10.0.0.1:6379", True)),
        (None, "local", ("local", True)),
    ],
)
def test_which_ray_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, given: str | None, variable: str | None, asked: tuple[str, bool]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert asked_address(given) == asked
    assert Where(Store("/nowhere"), Path("/nowhere"), address=given).alone == (asked[0] == "local")


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001", "127.0.0.1:1", "nonsense", "auto"]
)
def test_a_refusal_says_where_the_address_comes_from_and_what_works(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    answers(monkeypatch, problem="nothing")
    with pytest.raises(InputError) as error:
        probe(address, by_variable=True)
    assert str(error.value).startswith(f"RAY_ADDRESS is set to '{address}'. ")
    assert "unset RAY_ADDRESS, or give --address local" in str(error.value)
    said = refusal(address)
    assert "RAY_ADDRESS" not in said
    assert "give --address local" in said
    for advice in (said, str(error.value)):
        assert "--address auto" not in advice  # which asks RAY_ADDRESS again
        assert "leave --address out" not in advice


def test_port_answers(listening: str) -> None:
    assert port_answers(listening)
    assert not port_answers("127.0.0.1:1")
    assert not port_answers("nonsense")
    assert not port_answers("127.0.0.1:99999")


@pytest.mark.parametrize("address", ["host", "host:", ":6379", "host:port", "host:0", "host:70000"])
def test_what_is_no_address(address: str) -> None:
    assert f"'{address}' is no address of a Ray cluster. Write HOST:PORT" in refusal(address)


def test_a_protocol_is_refused_with_what_to_do() -> None:
    assert "ray job submit" in refusal("ray://host:10001")
    assert "ray job submit" in refusal("http://host:8265")


def test_silence() -> None:
    assert refusal("127.0.0.1:1").startswith("No Ray cluster answers at 127.0.0.1:1.")


def test_one_that_answers(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    answers(monkeypatch)
    assert probe(listening) == "10.0.0.1:6379"
    assert probe("auto") == "10.0.0.1:6379"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"problem": "silent"}, "No Ray cluster answers at 10.0.0.1:6379"),
        ({"problem": "nothing"}, "No Ray cluster was found from this machine"),
        ({"problem": "several", "detail": "a:1, b:2"}, "More than one Ray runs on this machine (a:1, b:2)"),
        ({"problem": "no token"}, "requires a token, and there is none here"),
        ({"problem": "wrong token"}, "does not accept the token of this machine"),
        ({"problem": "elsewhere"}, "This machine is no node of the Ray cluster at 10.0.0.1:6379"),
        ({"problem": "other", "detail": "boom"}, "cannot be joined: boom."),
        ({"ray": "3"}, "has Ray 3, this process Ray 2;"),
        ({"python": "2.7.1"}, f"has Python 2.7.1, this process Python {platform.python_version()};"),
    ],
)
def test_problems_in_words(monkeypatch: pytest.MonkeyPatch, answer: dict[str, str], said: str) -> None:
    answers(monkeypatch, **answer)
    assert said in refusal("auto")


def test_a_cluster_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    monkeypatch.setattr(module, "PROCESS_S", 0.01)
    assert "No Ray cluster answers at" in refusal(listening)


class Nodes:
    """A cluster that knows a node at its third look."""

    def __init__(self, *known: dict[bytes, int]) -> None:
        self.known = list(known)

    def get_all_node_info(self, timeout: float) -> dict[bytes, Any]:
        found = self.known.pop(0) if len(self.known) > 1 else self.known[0]
        return {node: SimpleNamespace(state=state) for node, state in found.items()}


ALIVE, DEAD = 0, 1


@pytest.mark.parametrize(
    ("known", "here", "expected", "looks"),
    [
        ([{b"\x01": ALIVE}], ["01"], True, 1),
        ([{}, {b"\x02": ALIVE}, {b"\x01": ALIVE, b"\x02": ALIVE}], ["01"], True, 3),  # it was being started
        ([{b"\x01": ALIVE}], [], False, 1),
        ([{b"\x01": DEAD}], ["01"], False, 1),
    ],
)
def test_a_node_that_is_being_started_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, known: list[dict[bytes, int]], here: list[str], expected: bool, looks: int
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    assert module._has_node_here(Nodes(*known), lambda: here) is expected
    assert len(slept) == looks - 1


def test_a_node_of_another_cluster_is_not_waited_for_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    assert not module._has_node_here(Nodes({b"\x02": ALIVE}), lambda: ["01"])
    assert next(clock) == module.REGISTERS_S + 2
