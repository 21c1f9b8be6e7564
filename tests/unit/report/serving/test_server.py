"""A served report: what is answered to whom, and when it is made again."""

from __future__ import annotations

import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rt_scale.experiments.other_data import DataHere
from rt_scale.report.page import Report
from rt_scale.report.report import make_report
from rt_scale.report.serving import server
from rt_scale.report.serving.server import Watched, serve_report
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns

Make = Callable[..., Any]
BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}


@dataclass
class Sweep:
    """A sweep of three runs, how often its report was made, and the address of its server."""

    runs: SweepRuns
    made: int = 0
    said: list[str] = field(default_factory=list)

    def make(self) -> Report:
        self.made += 1
        return make_report([self.runs], "last", DataHere(Path("nowhere")), empty=True)

    @property
    def points(self) -> list[Point]:
        return list(self.runs.points)

    @property
    def address(self) -> str:
        return self.said[0].split()[1]

    def get(self, path: str, **headers: str) -> tuple[int, Any, str]:
        request = urllib.request.Request(f"{self.address}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.headers, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()


@pytest.fixture
def sweep(tmp_path: Path, point: Make) -> Sweep:
    points = [point({"student.alpha": 0.5}, seed) for seed in range(3)]
    return Sweep(SweepRuns(SweepSpec(name="demo", base=BASE), points, Store(tmp_path / "store")))


@pytest.fixture
def served(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """The sweep, served until the test ends; a thread stands for the main one."""
    stop, ready = threading.Event(), threading.Event()
    monkeypatch.setattr(server, "_follow", lambda watched, first, interval: (ready.set(), stop.wait()))
    options = {"host": "localhost", "port": 0, "say": sweep.said.append}
    thread = threading.Thread(target=serve_report, args=([sweep.runs], sweep.make), kwargs=options)
    thread.start()
    assert ready.wait(60)
    yield sweep
    stop.set()
    thread.join()
    assert sweep.said[-1].startswith("Ended. The report stays: open file://")


def test_a_report_is_made_again_when_a_run_ends_and_only_then(sweep: Sweep, result: Make, finish: Make) -> None:
    watched = Watched([sweep.runs], sweep.make)
    store, (first, second, third) = sweep.runs.store, sweep.points
    assert (sweep.made, watched.shown.live.counts) == (1, "0 of 3 done, 3 to start")
    before = watched.shown.live.page
    watched.look()
    assert (sweep.made, watched.shown.live.page) == (1, before)
    with store.run(first.spec).acquire():
        watched.look()
        assert (sweep.made, [row.label for row in watched.shown.live.running]) == (1, [first.label])
        assert watched.shown.live.page != before
        assert [row.state for row in watched.shown.unfinished] == ["missing", "missing"]
    finish(store, second, result(0.4, 0.2, 0.6))
    watched.look()
    assert (sweep.made, watched.shown.live.counts) == (2, "1 of 3 done, 1 interrupted, 1 to start")
    failed = store.run(third.spec)
    with failed.acquire():
        failed.fail({"reason": "The loss is nan."})
    watched.look()
    assert (sweep.made, watched.shown.live.over) == (3, False)
    finish(store, first, result(0.4, 0.2, 0.6))
    watched.look()
    assert (sweep.made, watched.shown.live.over) == (4, True)


def test_the_page_and_its_files_are_answered(served: Sweep, result: Make, finish: Make) -> None:
    code, headers, page = served.get("")
    assert (code, headers["Content-Type"], headers["Content-Security-Policy"]) == (
        200,
        "text/html; charset=utf-8",
        None,
    )
    assert "0 of 3 done, 3 to start" in page
    assert "connect-src 'self'" in page
    assert '<noscript><meta http-equiv="refresh"' in page
    code, headers, live = served.get("live")
    assert live.strip() in page
    assert served.get("live", **{"If-None-Match": headers["ETag"]})[0] == 304
    finish(served.runs.store, served.points[0], result(0.4, 0.2, 0.6))
    name = served.points[0].spec.name
    assert '"name"' in served.get(f"runs/{name}/result.json")[2]
    code, headers, text = served.get("report.md")
    assert (code, headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert text.startswith("# demo")


@pytest.mark.parametrize(
    "path", ["nothing.png", "../sweep.yaml", "runs/../sweeps", "runs/%2e%2e/%2e%2e/secret", "/etc/passwd"]
)
def test_nothing_else_is_answered(served: Sweep, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").touch()
    (served.runs.folder.path / "sweep.yaml").write_text("")
    assert served.get(path)[0] == 404


def test_pages_of_others_are_told_nothing(served: Sweep) -> None:
    assert served.get("", Host="evil.example:80")[0] == 403
    assert served.get("live", Host="127.0.0.1:1")[0] == 200


def test_a_port_that_is_taken_or_a_host_that_is_none_is_refused(sweep: Sweep) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"localhost, port {port}: .*in use.*--port"):
            serve_report([sweep.runs], sweep.make, host="localhost", port=port, say=print)
    with pytest.raises(InputError, match=r"no\.such\.host\.invalid.*--host"):
        serve_report([sweep.runs], sweep.make, host="no.such.host.invalid", port=0, say=print)
    assert sweep.made == 0


def test_a_signal_ends_it_and_the_runs_are_looked_at_until_then(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    looks: list[Watched] = []
    really = Watched.look

    def look(watched: Watched) -> None:
        really(watched)
        looks.append(watched)
        if len(looks) == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Watched, "look", look)
    serve_report(
        [sweep.runs], sweep.make, host="127.0.0.1", port=0, say=sweep.said.append, show=shown.append, interval=0.01
    )
    assert len(looks) == 4
    assert shown == [sweep.address]
    assert sweep.address.startswith("http://127.0.0.1:")
    assert len(sweep.said) == 2
