"""Notifications, to a real server and a real command."""

from __future__ import annotations

import json
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.system import notify
from rt_scale.system.notify import Notifier
from tests.receiver import Receiver, receiving

SECRET = "s3cr3t-T0000"


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiving() as got:
        yield got


def failing(target: str, **fields: object) -> str:
    """The warning after one document was sent."""
    said: list[str] = []
    with Notifier(target, said.append) as notifier:
        notifier.send("sweep_ended", **fields)
    (warning,) = said
    assert SECRET not in warning
    return warning


def python(code: str, *arguments: object) -> str:
    return shlex.join([sys.executable, "-c", code, *map(str, arguments)])


def test_a_url_gets_a_post(server: Receiver) -> None:
    said: list[str] = []
    with Notifier(f"{server.url}/hook?key={SECRET}", said.append) as notifier:
        notifier.send("sweep_ended", sweep="demo", counts={"done": 3}, failed=[], report=None)
    expected = {"event": "sweep_ended", "sweep": "demo", "counts": {"done": 3}, "failed": [], "report": None}
    assert server.documents == [expected]
    assert (server.paths, server.types) == ([f"/hook?key={SECRET}"], ["application/json"])
    assert notifier.place == server.url
    assert said == []


def test_a_command_gets_it_on_standard_input(tmp_path: Path) -> None:
    said: list[str] = []
    out = tmp_path / "two words.json"
    target = python("import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')", out)
    with Notifier(target, said.append) as notifier:
        notifier.send("run_failed", failed=[{"run": "a"}])
        notifier.send("sweep_ended", sweep="demo")
    documents = [json.loads(line) for line in out.read_text().splitlines()]
    assert documents == [
        {"event": "run_failed", "failed": [{"run": "a"}]},
        {"event": "sweep_ended", "sweep": "demo"},
    ]
    assert said == []


def test_after_a_failure_only_the_end_is_tried(server: Receiver) -> None:
    server.answers = 500
    said: list[str] = []
    with Notifier(server.url, said.append) as notifier:
        for number in range(5):
            notifier.send("run_failed", failed=[{"run": str(number)}])
        notifier.send("sweep_ended", failed=[])
    assert server.events == ["run_failed", "sweep_ended"]
    assert len(said) == 1
    assert "2 notifications" in said[0]


@pytest.mark.parametrize("code", [404, 500, 302])
def test_an_answer_that_is_no_success_is_a_warning(server: Receiver, code: int) -> None:
    server.answers = code
    said = failing(f"{server.url}/{SECRET}")
    assert f"1 notification to {server.url} failed: it answered {code}" in said
    assert server.paths == [f"/{SECRET}"]


def test_a_server_that_is_slow_or_gone_is_a_warning(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "URL_SECONDS", 0.2)
    server.hold.clear()
    assert "took too long" in failing(f"{server.url}/{SECRET}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = failing(f"http://127.0.0.1:{port}/{SECRET}")
    assert f"http://127.0.0.1:{port} failed" in said
    assert "refused" in said


def test_a_command_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    said = failing(python("import sys; sys.exit(3)", SECRET))
    assert "exit code 3" in said
    assert repr(sys.executable) in said
    monkeypatch.setattr(notify, "COMMAND_SECONDS", 0.3)
    assert "took too long" in failing(python("import time; time.sleep(60)", SECRET))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (f"ftp://host/{SECRET}", "scheme 'ftp'"),
        (f"https:///{SECRET}", "needs a host"),
        (f"https://user:{SECRET}@host/", "no user, password"),
        (f"https://host:{SECRET}/", "a port that is a number"),
        (f"https://host/{SECRET} x", "blanks"),
        (f"no-such-program {SECRET}", "'no-such-program', which is not found"),
        (f"sh -c '{SECRET}", "Close its quotes"),
        ("", "not found"),
    ],
)
def test_what_cannot_be_told_is_refused(target: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as refusal:
        Notifier(target, pytest.fail)
    assert SECRET not in str(refusal.value)
