"""Runs that need no training, on the machines of a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.unit.store.objects.fake import Objects


@dataclass(frozen=True)
class FakeSpec:
    values: dict[str, Any] = field(default_factory=lambda: {"alpha": 0.5})
    name: str = "distill-0"

    def canonical(self) -> dict[str, Any]:
        return self.values


def weights(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)
        (folder / "state").write_text(text)

    return write


def read(folder: Path) -> str:
    return (folder / "weights").read_text()


def begin(store: Store, *steps: int, name: str = "distill-0") -> RunDir:
    """A run that was begun, with checkpoints, and left."""
    run = store.run(FakeSpec(name=name))
    with run.acquire():
        run.write_spec(FakeSpec(name=name))
        for step in steps:
            run.save_checkpoint(step, weights(f"{name} {step}"))
    return run


def stop_waiting(objects: Objects) -> None:
    """Let the owner of an attempt be a process that is gone."""
    for key, (data, date) in list(objects.contents.items()):
        if key.endswith(".claim"):
            objects.contents[key] = (json.dumps({**json.loads(data), "pid": 2**22 + 1}).encode(), date)


def send(run: RunDir) -> None:
    """Upload now what the run would upload within seconds."""
    run._send(now=True)
