"""What `rt-scale cluster` does on a machine, with processes that are no Ray."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rt_scale.clusters import node
from rt_scale.spec.errors import InputError

GIVEN = {"name": "lab"}
IGNORES = "trap '' TERM; while :; do sleep 0.1; done"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".rt-scale" / "lab").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def begin(started: list[subprocess.Popen[bytes]], text: str, mark: str | None) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.environ["PATH"]} | ({node.MARK: mark} if mark else {})
    process = subprocess.Popen(["bash", "-c", text], env=environment, start_new_session=True)
    started.append(process)
    return process


def is_there(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def test_what_a_node_started_is_ended_and_nothing_else(
    home: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "DRAINED_S", 0.5)
    # A child of the node that hides its environment, as Ray's workers do, and that ignores signals.
    leader = begin(started, f"env -i bash -c '{IGNORES}' & echo on; {IGNORES}", "aa")
    job = begin(started, IGNORES, "aa")
    others = [begin(started, IGNORES, "ab"), begin(started, IGNORES, None)]
    (home / ".rt-scale" / "lab" / "node.json").write_text(json.dumps({"pid": leader.pid, "mark": "aa"}))
    deadline = time.monotonic() + 10
    while len(node._processes("aa")) < 3:
        assert time.monotonic() < deadline
    assert node.stop(GIVEN) == {"what": "stopped"}
    assert (leader.wait(), job.wait()) == (-signal.SIGKILL, -signal.SIGKILL)
    assert all(map(is_there, others))
    assert node._processes("aa") == []
    assert not list((home / ".rt-scale" / "lab").iterdir())
    assert node.stop(GIVEN) == {"what": "nothing ran"}


def test_jobs_are_asked_to_end_before_their_node(home: Path, started: list[subprocess.Popen[bytes]]) -> None:
    leader = begin(started, IGNORES, "aa")
    job = begin(started, "trap 'exit 5' TERM; while :; do sleep 0.01; done", "aa")
    (home / ".rt-scale" / "lab" / "node.json").write_text(json.dumps({"pid": leader.pid, "mark": "aa"}))
    time.sleep(0.3)
    assert node.stop_jobs(GIVEN)["jobs"] >= 1
    assert job.wait() == 5
    assert is_there(leader)


def test_another_process_with_its_number_is_no_node(home: Path, started: list[subprocess.Popen[bytes]]) -> None:
    other = begin(started, IGNORES, None)
    (home / ".rt-scale" / "lab" / "node.json").write_text(json.dumps({"pid": other.pid, "mark": "aa"}))
    assert node.status(GIVEN)["running"] is False
    assert node.stop(GIVEN) == {"what": "nothing ran"}
    assert is_there(other)


def test_a_folder_that_is_not_shared_is_no_store(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    node._check_store(store, head=True, cluster=None)
    node._mark_store(store, "aa")
    node._check_store(store, head=False, cluster="aa")
    for cluster, place in (("bb", store), ("aa", str(tmp_path / "other"))):
        with pytest.raises(InputError, match="share the folder"):
            node._check_store(place, head=False, cluster=cluster)


def test_private_files_are_private_also_if_they_were_not(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    path.chmod(0o644)
    node._write_private(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


def test_answers_are_json_and_failures_a_line(home: Path) -> None:
    words = [sys.executable, "-m", "rt_scale.clusters.node"]
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run(
        [*words, "describe"], input=json.dumps(GIVEN), capture_output=True, text=True, env=environment
    )
    assert json.loads(done.stdout)["versions"]["Python"] == sys.version.split()[0]
    given = {**GIVEN, "data": ["no_such_set"], "data_origin": None}
    done = subprocess.run(
        [*words, "prepare_data"], input=json.dumps(given), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert "no_such_set" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_data_is_taken_from_what_was_copied(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rt_scale.data.prepare import open_prepared

    incoming = home / ".rt-scale" / "lab" / "incoming"
    whole = open_prepared("digits", tmp_path / "made")
    incoming.mkdir()
    whole.folder.rename(incoming / "digits")
    monkeypatch.setenv("RT_SCALE_DATA", str(tmp_path / "data"))
    node.prepare_data({**GIVEN, "data": ["digits"], "data_origin": None})
    assert open_prepared("digits", tmp_path / "data").sha256 == whole.sha256
    assert not incoming.exists()
