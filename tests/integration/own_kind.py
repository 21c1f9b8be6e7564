"""A kind of run of the tests' own: it counts, trains nothing, and draws what it counted."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field, SerializeAsAny

from rt_scale.experiments.base import Experiment, Outcome
from rt_scale.experiments.context import Context
from rt_scale.spec.part import Part
from rt_scale.spec.run import OwnSpec, RunSpec, stream

if marks := os.environ.get("OWN_KIND_MARKS"):
    with open(marks, "a") as file:
        file.write(f"{os.getpid()}\n")


class Before(Part):
    """Another run, of any kind, whose last metrics are added."""

    run: SerializeAsAny[RunSpec]


class CountSpec(OwnSpec):
    """How far to count, and after what."""

    limit: int = Field(ge=1, le=1000)
    pause: float = Field(0.0, ge=0)
    after: Before | None = None


class Count(Experiment[CountSpec]):
    """Sums random numbers."""

    spec = CountSpec

    def run(self, spec: CountSpec, context: Context) -> Outcome:
        found = context.restore(lambda folder: json.loads((folder / "sums.json").read_text()))
        sums: list[int] = found or []
        first = 0.0
        if spec.after is not None:
            result = context.options.store.run(spec.after.run).result()
            assert result is not None
            first = sum(result.last.values())
        context.observer.started(len(sums), spec.limit)
        for step in range(len(sums) + 1, spec.limit + 1):
            context.check_stop()
            sums.append(stream("count", spec.seeds.data, step) % 100)
            context.log(step, step, {"count/sum": first + sum(sums)})
            context.artifact("sums.npz", _npz(sums))
            context.checkpoint(step, lambda folder: _write(folder, sums))
            context.observer.stepped(step)
            time.sleep(spec.pause)
        picture = io.BytesIO()
        Image.fromarray(np.array([sums], dtype=np.uint8)).save(picture, "png")
        context.artifact("sums.png", picture.getvalue())
        return Outcome(context.metrics.last(), steps=spec.limit)


def _write(folder: Path, sums: list[int]) -> None:
    (folder / "sums.json").write_text(json.dumps(sums))


def _npz(sums: list[int]) -> bytes:
    array = io.BytesIO()
    np.savez(array, sums=np.array(sums))
    return array.getvalue()
