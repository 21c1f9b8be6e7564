"""A store of runs in every state, made without computing any, and bundles that were tampered with."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rt_scale.spec.document import resolve_same
from rt_scale.spec.grid import Point
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.bundle.format import MANIFEST
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from tests.records import run_record, run_result

Members = dict[str, bytes]
Write = Callable[[tarfile.TarFile, Members], None]


def spec(seed: int, **changes: Any) -> RunSpec:
    document = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_1"}, "seeds": {"data": seed}, **changes}
    return RunSpec.model_validate(resolve_same(document))


RESTART = spec(3, teacher={"start_from": {"run": "same"}})
FIRST = RESTART.starts[0].run
DONE, FAILED, PARTIAL, MISSING = (spec(seed) for seed in (0, 1, 2, 9))
SPECS = [DONE, FAILED, PARTIAL, RESTART, MISSING]


def sweep_of(name: str, text: str, specs: Sequence[RunSpec]) -> SweepRuns:
    return SweepRuns(SweepSpec(name=name, base={}), [Point({}, 0, spec) for spec in specs], Store(Path("none")), text)


PART = sweep_of("small", "name: small\n", SPECS)


def fill(store: Store) -> None:
    """Runs that are done, failed at the second attempt, partial, and missing; one starts from another."""
    for each in (DONE, FIRST, RESTART):
        run = store.run(each)
        with run.acquire():
            begin(run, each, steps=(0, 4))
            run.complete(run_result({"train/loss": 1.0}, name=each.name, steps=4))
    for _ in range(2):
        run = store.run(FAILED)
        with run.acquire():
            begin(run, FAILED, steps=())
            run.fail({"reason": "it diverged"})
    run = store.run(PARTIAL)
    with run.acquire():
        begin(run, PARTIAL, steps=(0,))
    kept = store.sweep("small")
    kept.write(PART.text, [each.name for each in SPECS])
    kept.record("sampled.json", {"points": []})
    (kept.report / "figures").mkdir(parents=True)
    (kept.report / "tables.md").write_text("# small\n")
    (kept.report / "figures" / "knn@cifar100, alpha=1.png").write_bytes(b"\x89PNG")
    (kept.report / ".tmp-half.md-1234").write_text("half")
    kept.board.mkdir()
    (kept.board / "view").write_text("made again where it is wanted")


def begin(run: RunDir, each: RunSpec, steps: tuple[int, ...]) -> None:
    run.write_spec(each)
    run.write_record(run_record({"host": "here"}))
    table = MetricsTable(run.metrics_path)
    table.append(0, 0.0, {"train/loss": 1.0})
    table.flush()
    (run.path / "events.out.tfevents.2-scalars").write_bytes(b"\0" * 500)
    (run.path / "ray.log").write_text("not packed")

    def write(folder: Path) -> None:
        save_file({"w": torch.full((3,), float(step))}, folder / "student.safetensors")
        if step == 0:
            save_file({"w": torch.ones(3)}, folder / "teacher.safetensors")
        (folder / "state.pt").write_bytes(b"pickled")

    for step in steps:
        run.save_checkpoint(step, write)


def read(path: Path) -> Members:
    with tarfile.open(path) as archive:
        return {member.name: opened.read() for member in archive if (opened := archive.extractfile(member))}


def add(archive: tarfile.TarFile, name: str, data: bytes, **changes: Any) -> None:
    """Add a member; ``changes`` to what is said of it."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in changes.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(data))


def plainly(archive: tarfile.TarFile, members: Members) -> None:
    for name, data in members.items():
        add(archive, name, data)


def rewrite(path: Path, members: Mapping[str, bytes], write: Write = plainly, *, listed: bool = True) -> None:
    """Make ``path`` a tar file of these members; ``listed``: with a manifest that lists them, as a forger would."""
    members = dict(members)
    if listed:
        manifest = json.loads(members.pop(MANIFEST))
        manifest["files"] = {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members.items()
        }
        members[MANIFEST] = json.dumps(manifest).encode()
    with tarfile.open(path, "w:gz") as archive:
        write(archive, members)
