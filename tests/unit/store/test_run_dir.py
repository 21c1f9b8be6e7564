from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rt_scale.spec.errors import InputError, RunError
from rt_scale.store.lease import FOLDER
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store, SweepDir
from tests.records import run_record, run_result
from tests.unit.store.conftest import Watch


@dataclass(frozen=True)
class FakeSpec:
    """A spec as far as the store knows it."""

    values: dict[str, Any] = field(default_factory=lambda: {"alpha": 1e-10, "hidden": (1, 2)})
    name: str = "distill-0123456789abcdef"

    def canonical(self) -> dict[str, Any]:
        return self.values


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return Store(tmp_path).run(FakeSpec())


def put(folder: Path) -> None:
    (folder / "weights").write_text("w")


def test_life_of_a_run(run: RunDir) -> None:
    assert run.status().state == "missing"
    assert (run.spec(), run.record(), run.result(), run.failure()) == (None, None, None, None)
    with run.acquire():
        run.write_spec(FakeSpec())
        run.write_record(run_record({"host": "a"}))
        running = run.status()
        assert running.state == "running"
        assert running.attempts == 1
        assert running.owner is not None
        assert running.owner.startswith(f"process {os.getpid()} on host ")
        assert re.fullmatch(r"last heartbeat [0-5]?\d s ago", running.heartbeat)
        run.save_checkpoint(10, put)
    assert run.status().state == "partial"
    with run.acquire():
        run.fail({"reason": "diverged", "traceback": "..."})
    assert run.status().state == "failed"
    assert run.failure() == {"reason": "diverged", "traceback": "...", "attempt": 2}
    with run.acquire():
        run.write_spec(FakeSpec())
        assert run.latest_checkpoint(lambda folder: folder.name, print) == (10, "10")
    assert run.status().state == "partial"  # the failure was an earlier attempt's
    with run.acquire():
        run.prune([])
        assert run.checkpoints.steps() == []
        run.complete(run_result({"student": 0.5}))
    assert run.result() == run_result({"student": 0.5})
    assert run.failure() is None
    assert run.record() == run_record({"host": "a"})
    assert (run.status().state, run.status().attempts) == ("done", 4)


def test_the_age_of_the_heartbeat_decides_elsewhere(run: RunDir, watch: Watch) -> None:
    with run.acquire():
        path = run.path / FOLDER / "1.json"
        os.utime(path, (1, 1))
        assert run.status().state == "partial"
        assert run.status(stale=1e12).state == "running"
        with RunDir(run.path).acquire(), pytest.raises(RunError, match="no longer owns"):
            run.save_checkpoint(1, put)


@pytest.mark.parametrize(
    "write",
    [
        lambda run: run.write_spec(FakeSpec()),
        lambda run: run.write_record(run_record()),
        lambda run: run.save_checkpoint(1, put),
        lambda run: run.latest_checkpoint(str, print),
        lambda run: run.prune([]),
        lambda run: run.complete(run_result()),
        lambda run: run.fail({}),
    ],
)
def test_nothing_is_written_without_the_lease(run: RunDir, write: Any) -> None:
    with pytest.raises(RunError, match="without its lease"):
        write(run)
    assert not run.path.exists()
    lease = run.acquire()
    (run.path / FOLDER / "2.json").write_text("taken over")
    before = sorted(os.listdir(run.path))
    with pytest.raises(RunError, match="no longer owns"):
        write(run)
    assert sorted(os.listdir(run.path)) == before
    lease.release()


def test_a_takeover_while_a_checkpoint_is_written(run: RunDir) -> None:
    def slow(folder: Path) -> None:
        put(folder)
        (run.path / FOLDER / "2.json").write_text("taken over")

    with run.acquire(), pytest.raises(RunError, match="no longer owns"):
        run.save_checkpoint(1, slow)
    assert run.checkpoints.steps() == []


def test_another_spec_in_the_same_place(run: RunDir) -> None:
    with run.acquire():
        run.write_spec(FakeSpec())
        run.write_spec(FakeSpec())
        with pytest.raises(InputError, match="holds another spec"):
            run.write_spec(FakeSpec(values={"alpha": 1.0}))
    assert run.spec() == {"alpha": 1e-10, "hidden": [1, 2]}


def test_leftovers_of_killed_attempts_are_cleared(run: RunDir) -> None:
    with run.acquire():
        run.save_checkpoint(1, put)
    (run.path / ".tmp-result.json-00").write_text("{")
    (run.checkpoints.folder / ".tmp-2-00").mkdir()
    with run.acquire():
        assert sorted(os.listdir(run.path)) == ["checkpoints", FOLDER]
        assert os.listdir(run.checkpoints.folder) == ["1"]


def test_store_lists_what_was_begun(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert list(store) == []
    for name in ("distill-b", "distill-a"):
        begun = store.run(FakeSpec(name=name))
        with begun.acquire():
            begun.write_spec(FakeSpec(name=name))
    (store.root / "runs" / "stray").mkdir()
    assert [run.name for run in store] == ["distill-a", "distill-b"]
    assert store.run("distill-a").path == store.run(FakeSpec(name="distill-a")).path
    assert store.run("distill-a").metrics_path == store.root / "runs" / "distill-a" / "metrics.parquet"


def test_sweep_dir(tmp_path: Path) -> None:
    sweep: SweepDir = Store(tmp_path).sweep("demo")
    assert sweep.path == tmp_path / "sweeps" / "demo"
    assert sweep.runs() == []
    sweep.write("name: demo  # ä\n", ["distill-b", "distill-a"])
    assert sweep.file.read_text() == "name: demo  # ä\n"
    assert sweep.runs() == ["distill-b", "distill-a"]
    assert {sweep.board.parent, sweep.report.parent} == {sweep.path}
    assert sweep.board != sweep.report


def test_check_writable(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "store")
    store.check_writable()
    assert os.listdir(store.root) == []
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "inner"):
        with pytest.raises(InputError, match=r"cannot be written.*--store"):
            Store(root).check_writable()


WORK = """
import sys
from pathlib import Path
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import RunDir

run = RunDir(Path(sys.argv[1]))

def load(folder):
    step = int((folder / "weights").read_text()[:8])
    return MetricsTable(run.metrics_path, (folder / "metrics.parquet").read_bytes())

with run.acquire():
    found = run.latest_checkpoint(load, lambda text: print("WARNING", text, flush=True))
    step, table = found or (0, MetricsTable(run.metrics_path))
    assert len(table) == step
    print("at", step, flush=True)
    while True:
        step += 1
        table.append(step, step / 10, {"loss": 1 / step})
        table.flush()
        def write(folder):
            (folder / "weights").write_text(f"{step:08}" * 5000)
            (folder / "metrics.parquet").write_bytes(table.to_bytes())
        run.save_checkpoint(step, write)
        run.prune(run.checkpoints.steps()[-2:])
        print("saved", step, flush=True)
"""


def test_killed_at_any_moment_it_goes_on(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    rng = random.Random(0)
    promised = 0
    for attempt in range(1, 9):
        process = subprocess.Popen([sys.executable, "-c", WORK, str(run.path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline().split()
        assert first[0] == "at", first
        assert int(first[1]) >= promised
        for _ in range(rng.randrange(1, 4)):
            word, step_saved = process.stdout.readline().split()
            assert word == "saved"
            promised = int(step_saved)
        time.sleep(rng.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        assert "WARNING" not in rest
        whole, _, _ = rest.rpartition("\n")  # what was being said when it was killed says nothing
        promised = int(whole.split()[-1]) if whole else promised
        assert read_metrics(run.metrics_path).num_rows >= promised
        assert run.status().state == "partial"
        assert run.status().attempts == attempt
    with run.acquire():
        found = run.latest_checkpoint(lambda folder: (folder / "weights").read_text(), print)
        assert found is not None
        step, weights = found
        assert weights == f"{step:08}" * 5000
        assert not [name for name in os.listdir(run.checkpoints.folder) if not name.isdigit()]


def test_artifacts_are_arrays_tables_and_pictures(run: RunDir) -> None:
    with run.acquire():
        run.save_artifact("grid.npz", b"1")
        run.save_artifact("grid.npz", b"2")
        run.save_artifact("plane-1.png", b"3")
        for name in ("grid.pkl", "../grid.npz", "a/grid.npz", ".npz", "grid.npz.exe"):
            with pytest.raises(ValueError, match=r"such as grid\.npz"):
                run.save_artifact(name, b"")
        (run.artifacts / ".tmp-grid.npz-1").touch()  # as a killed process leaves it
    assert {path.name: path.read_bytes() for path in run.artifacts.glob("[!.]*")} == {
        "grid.npz": b"2",
        "plane-1.png": b"3",
    }
    with run.acquire():
        assert sorted(path.name for path in run.artifacts.iterdir()) == ["grid.npz", "plane-1.png"]
    with pytest.raises(RunError, match="without its lease"):
        RunDir(run.path).save_artifact("grid.npz", b"")
