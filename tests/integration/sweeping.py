"""A small sweep, and what is seen of it from outside while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.metrics import read_metrics
from rt_scale.store.store import Store

SWEEP: dict[str, Any] = {
    "name": "small",
    "base": {
        "data": {"name": "digits"},
        "encoder": {"name": "convnet_8_2", "norm": "batch"},
        "projector": {"hidden": [32], "bottleneck": 16},
        "train": {"epochs": 30, "batch_size": 128, "optimizer": {"name": "sgd", "lr": 0.001}},
        "probe": {"every": "3ep", "epochs": 2, "standardized": False},
    },
    "axes": {"student.alpha": [1e-10, 1.0], "projector.out_dim": [16, 64]},
}
"""Four runs of some three seconds."""
SLOW: dict[str, Any] = {
    **SWEEP["base"],
    "objective": {"name": "own_slow:cross_entropy"},
    "train": {**SWEEP["base"]["train"], "epochs": 12},
}
"""The base of runs that take a minute or more, on any machine, while the gate of :func:`slow_down` is there."""
OWN_SLOW = """
import os, time
def cross_entropy(student, teacher):
    if os.path.exists(os.environ.get("SLOW", "")):
        time.sleep(0.5)
    return -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
"""


def slow_down(folder: Path) -> Path:
    """Write the objective of ``SLOW`` into a folder of Python's path; returns the gate, which ``$SLOW`` names."""
    (folder / "own_slow.py").write_text(OWN_SLOW)
    (folder / "slow").touch()
    return folder / "slow"


class Place:
    """A sweep file with its store, and the command that a user repeats."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.store = Store(folder / "store")
        self.data_dir = data_dir
        self.file = folder / "small.yaml"
        folder.mkdir(exist_ok=True)
        self.change({})

    def change(self, changes: dict[str, Any]) -> None:
        self.file.write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False))

    @property
    def command(self) -> list[str]:
        return ["sweep", str(self.file), "--store", str(self.store.root), "--data-dir", str(self.data_dir)]

    @property
    def points(self) -> list[Point]:
        return load_sweep(self.file)[1]

    def outcome(self, point: Point) -> tuple[bytes, Any, Any]:
        """What must not depend on what happened on the way."""
        run_dir = self.store.run(point.spec)
        result = run_dir.result()
        assert result is not None, point.label
        weights = run_dir.path / "checkpoints" / str(result.steps) / "student.safetensors"
        metrics = read_metrics(run_dir.metrics_path).drop_columns("time")
        return weights.read_bytes(), metrics, (result.last, result.best)

    def times(self) -> dict[str, int]:
        """When each result was written."""
        return {str(path): path.stat().st_mtime_ns for path in self.store.root.glob("runs/*/result.json")}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def workers(place: Place) -> dict[int, Path]:
    """Living processes that hold a run, with its directory."""
    found = {}
    for point in place.points:
        path = place.store.run(point.spec).path
        leases = sorted((path / "lease").glob("[0-9]*.json"), key=lambda lease: int(lease.stem))
        if leases and not (path / "result.json").exists():
            pid = json.loads(leases[-1].read_text())["pid"]
            if alive(pid):
                found[pid] = path
    return found


def training(place: Place) -> list[int]:
    """Those processes that have trained for an epoch at least."""
    return [pid for pid, path in workers(place).items() if any((path / "checkpoints").glob("[1-9]*"))]


@contextlib.contextmanager
def paused(place: Place) -> Iterator[dict[int, Path]]:
    """Stop the processes that hold runs, as Ctrl-Z does, so that none of them ends before something happens to it.

    Ray and the control actor need seconds, whatever the machine; a run needs more or fewer of them.

    Yields:
        What :func:`workers` says of those processes now.
    """
    found = workers(place)
    _send(found, signal.SIGSTOP)
    try:
        yield {pid: path for pid, path in workers(place).items() if pid in found}
    finally:
        _send(found, signal.SIGCONT)


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
