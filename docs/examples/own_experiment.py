"""A kind of run of your own: it estimates pi from random points, and trains nothing.

    rt-scale run own_experiment.yaml
    rt-scale sweep own_experiment_sweep.yaml

It resumes after a kill, a sweep runs it on a cluster, and report and export show what it logs and draws.
"""

from __future__ import annotations

import io
import json

import numpy as np
from pydantic import Field

from rt_scale.experiments.base import Experiment, Outcome
from rt_scale.experiments.context import Context
from rt_scale.spec.run import OwnSpec, stream


class PiSpec(OwnSpec):
    """What decides the numbers: the fields of your YAML file."""

    rounds: int = Field(10, ge=1)
    """Rounds of points, each logged."""
    points: int = Field(1000, ge=1)
    """Random points a round."""


class Pi(Experiment[PiSpec]):
    """The estimate of pi after every round, and the file artifacts/inside.npz with how many points were inside."""

    spec = PiSpec

    def run(self, spec: PiSpec, context: Context) -> Outcome:
        """Continue from the newest checkpoint, or start."""

        inside = context.restore(lambda folder: json.loads((folder / "inside.json").read_text())) or []
        context.observer.started(len(inside), spec.rounds)
        for done in range(len(inside), spec.rounds):
            xy = np.random.default_rng(stream("pi", spec.seeds.data, done)).random((spec.points, 2))
            inside.append(int((np.square(xy).sum(axis=1) < 1).sum()))
            error = abs(4 * sum(inside) / (len(inside) * spec.points) - np.pi)
            context.log(done + 1, done + 1, {"pi/error": error})
            context.observer.stepped(done + 1)
            context.checkpoint(done + 1, lambda folder: (folder / "inside.json").write_text(json.dumps(inside)))
        array = io.BytesIO()
        np.savez(array, inside=np.array(inside))
        context.artifact("inside.npz", array.getvalue())
        return Outcome(context.metrics.last(), steps=spec.rounds)
