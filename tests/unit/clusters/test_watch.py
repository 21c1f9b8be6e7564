"""Notices of clouds, from servers that answer as theirs do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rt_scale.clusters import watch as module
from rt_scale.clusters.watch import Notice, drain, notice_of_aws, notice_of_gcp, raylet, watch

Answer = tuple[int, str]


@contextmanager
def metadata(answer: Callable[[str, str, dict[str, str]], Answer]) -> Iterator[str]:
    """A server whose answers are given by method, path and headers; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            code, text = answer(self.command, self.path, {key.lower(): value for key, value in self.headers.items()})
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = reply

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def aws(action: str | None) -> Callable[[str, str, dict[str, str]], Answer]:
    """IMDSv2 as it answers with this ``spot/instance-action``."""

    def answer(method: str, path: str, headers: dict[str, str]) -> Answer:
        if (method, path) == ("PUT", "/latest/api/token"):
            return (200, "secret") if headers["x-aws-ec2-metadata-token-ttl-seconds"].isdigit() else (400, "")
        if headers.get("x-aws-ec2-metadata-token") != "secret":
            return 401, ""
        if path == "/latest/meta-data/events/recommendations/rebalance":
            return 200, '{"noticeTime": "2026-11-30T01:00:00Z"}'
        known = action is not None and path == "/latest/meta-data/spot/instance-action"
        return (200, str(action)) if known else (404, "")

    return answer


def gcp(preempted: str = "FALSE", event: str = "NONE") -> Callable[[str, str, dict[str, str]], Answer]:
    """GCP's metadata server."""
    values = {"preempted": preempted, "maintenance-event": event}

    def answer(method: str, path: str, headers: dict[str, str]) -> Answer:
        if headers.get("metadata-flavor") != "Google":
            return 403, ""
        value = values.get(path.removeprefix("/computeMetadata/v1/instance/"))
        return (405, "") if method != "GET" else (404, "") if value is None else (200, value)

    return answer


def ends_in(seconds: float) -> str:
    time = datetime.now(UTC) + timedelta(seconds=seconds)
    return json.dumps({"action": "terminate", "time": f"{time:%Y-%m-%dT%H:%M:%SZ}"})


def test_aws_tells_the_time_that_is_left() -> None:
    with metadata(aws(ends_in(100))) as address:
        notice = notice_of_aws(address)
    assert notice is not None
    assert 85 <= notice.seconds <= 95
    assert "terminate" in notice.reason


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_clock_that_is_wrong_does_not_make_the_end_far_or_past(seconds: float) -> None:
    with metadata(aws(ends_in(seconds))) as address:
        assert notice_of_aws(address) == Notice(115, "AWS spot interruption: terminate")


def test_without_interruption_and_with_a_mere_recommendation_there_is_no_notice() -> None:
    with metadata(aws(None)) as address:
        assert notice_of_aws(address) is None


@pytest.mark.parametrize(
    ("preempted", "event", "seconds"),
    [
        ("TRUE", "NONE", 25),
        ("FALSE", "TERMINATE_ON_HOST_MAINTENANCE", 3595),
        ("FALSE", "MIGRATE_ON_HOST_MAINTENANCE", None),
        ("FALSE", "NONE", None),
    ],
)
def test_gcp_tells_of_preemption_and_of_maintenance_that_ends_the_machine(
    preempted: str, event: str, seconds: int | None
) -> None:
    with metadata(gcp(preempted, event)) as address:
        notice = notice_of_gcp(address)
    assert (notice and notice.seconds) == seconds


@pytest.mark.parametrize(
    "wrong", [lambda *_: (500, "no"), lambda *_: (200, "not JSON"), lambda *_: (200, "[]"), lambda *_: (200, "{}")]
)
def test_answers_of_something_else_are_errors_and_not_notices(wrong: Callable[..., Answer]) -> None:
    with metadata(wrong) as address:
        for ask in (notice_of_aws, notice_of_gcp):
            with pytest.raises((OSError, ValueError, KeyError, TypeError)):
                ask(address)


def watched(
    cloud: str, answer: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], list[Notice]]:
    """What the agent says until the node is drained, which takes two tries, and what Ray is told."""
    told, lines = list[Notice](), list[str]()

    def tried(notice: Notice, node: str | None) -> str | None:
        told.append(notice)
        return None if len(told) == 2 else "no Ray node runs on this machine"

    monkeypatch.setattr(module, "drain", tried)
    monkeypatch.setattr(module, "raylet", lambda: None)
    with metadata(answer) as address:
        watch(cloud, 0.01, lines.append, address)
    return lines, told


@pytest.mark.parametrize(("answer", "name"), [(aws(ends_in(100)), "aws"), (gcp("TRUE"), "gcp")], ids=["aws", "gcp"])
def test_the_cloud_that_answers_is_found_and_its_notice_passed_on(
    answer: Callable[..., Answer], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, told = watched("auto", answer, monkeypatch)
    assert lines[0] == f"notices of {name} are watched"
    assert "no Ray node" in lines[2]
    assert len(lines) == 4
    assert len(told) == 2


def test_errors_of_the_metadata_server_are_said_once_and_outlived(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def answer(*request: object) -> Answer:
        nonlocal asked
        asked += 1
        return gcp("TRUE")(*request) if asked > 6 else (503, "")  # type: ignore[arg-type]

    lines, _ = watched("gcp", answer, monkeypatch)
    assert "no notices can be read (gcp: HTTP Error 503" in lines[0]
    assert lines[1] == "notices of gcp are watched"
    assert asked > 6


def test_only_the_cloud_that_was_named_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []

    def answer(method: str, path: str, headers: dict[str, str]) -> Answer:
        paths.append(path)
        return gcp("TRUE")(method, path, headers)

    watched("gcp", answer, monkeypatch)
    assert all(path.startswith("/computeMetadata/") for path in paths)


def test_the_node_is_that_of_this_machines_raylet(tmp_path: Path) -> None:
    assert raylet(tmp_path) is None
    for number, words in enumerate([["python", "--node_id=no"], ["/opt/ray/raylet", "--a=b", "--node_id=1f2e", ""]]):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "cmdline").write_text("\0".join(words))
    assert raylet(tmp_path) == "1f2e"


def test_without_a_node_or_a_cluster_the_drain_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drain(Notice(10, "test"), None) == "no Ray node runs on this machine"
    monkeypatch.setattr(module, "DRAIN_S", 0.1)
    assert "Ray could not be told" in str(drain(Notice(10, "test"), "ab" * 28))


def test_a_node_that_ended_is_not_drained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, lines = iter([None, "1f", "1f", None]), list[str]()
    monkeypatch.setattr(module, "raylet", lambda: next(nodes))
    monkeypatch.setattr(module, "drain", lambda notice, node: f"no answer for {node}")
    with metadata(gcp("TRUE")) as address:
        watch("gcp", 0.01, lines.append, address)
    assert lines[2:] == ["no answer for None; trying on", "no answer for 1f; trying on", "the node has ended"]


def test_the_agent_imports_neither_ray_nor_torch() -> None:
    code = "import sys, rt_scale.cli, rt_scale.clusters.watch; print({'ray', 'torch', 'numpy'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
