"""Makes the golden store beside this file: run directories of one version, which every later one must read.

Run once by the version whose runs are to be kept, from an empty folder: ``python -m tests.golden.make FOLDER``.
The committed store was made by the version before the layout of issue 14, of November 2026.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from rt_scale.experiments.batched import choose_batch_size, run_batched
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import RunError
from rt_scale.spec.stopping import Stopped
from rt_scale.store.store import Store
from tests.golden.specs import document, spec_of
from tests.integration.dying import DIES

UNFINISHED = ("killed", "stopped", "early_stopped")
STOP_AFTER = 6
"""Steps of 4 an epoch: in the middle of the second."""


def make(folder: Path) -> None:
    """Every run in ``folder/store``; those that are unfinished there, undisturbed, in ``folder/undisturbed``."""
    store, data = Store(folder / "store"), folder / "data"
    for label in ("finished", "started_from", "supervised"):
        run(spec_of(label), _settings(store, data))
    with contextlib.suppress(RunError):
        run(spec_of("failed"), _settings(store, data))
    batched = [spec_of("batched_1"), spec_of("batched_2")]
    packing = choose_batch_size(batched, _settings(store, data), 2)
    run_batched(batched, [_settings(store, data, batching=packing) for _ in batched], lambda number, outcome: None)
    _killed(folder)
    for label, steps in (("stopped", STOP_AFTER), ("early_stopped", 4)):
        asked = iter([False] * (steps - 1))
        with contextlib.suppress(Stopped):
            run(spec_of(label), _settings(store, data, stop=lambda asked=asked: next(asked, True)))
    for label in UNFINISHED:
        run(spec_of(label), _settings(Store(folder / "undisturbed"), data))
    for label in UNFINISHED:
        _keep_the_end(folder / "undisturbed" / "runs" / spec_of(label).name)
    for place in ("data",):
        shutil.rmtree(folder / place, ignore_errors=True)


def _settings(store: Store, data: Path, **options: object) -> Options:
    return Options(store=store, data_dir=data, device="cpu", threads=1, **options)  # type: ignore[arg-type]


def _keep_the_end(run: Path) -> None:
    """Remove all but the result, the metrics and the student's last weights."""
    last = max(int(folder.name) for folder in (run / "checkpoints").iterdir())
    kept = {"result.json", "metrics.parquet", f"checkpoints/{last}/student.safetensors"}
    for path in run.rglob("*"):
        if path.is_file() and str(path.relative_to(run)) not in kept:
            path.unlink()


def _killed(folder: Path) -> None:
    """Kill a run's process in the middle of its third epoch."""
    spec = folder / "killed.yaml"
    spec.write_text(document("killed"))
    moment = "rt_scale.experiments.train:TrainingRun:after_step:10:before"
    places = ["--store", folder / "store", "--data-dir", folder / "data"]
    command = [*DIES, moment, "run", spec, *places, "--threads", "1", "--device", "cpu"]
    subprocess.run([str(part) for part in command], check=False, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    spec.unlink()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
