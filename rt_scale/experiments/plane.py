"""One attempt at a plane: the points that are measured here, in groups, with a checkpoint after a group."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from rt_scale.analyses.directions import Places, filter_normalised, places, principal
from rt_scale.analyses.measures import Images, PointMeasures, ProbeRecipe
from rt_scale.analyses.plane import CORNERS, NAMES, axis, coarse_first, gram, norms, refuse_degenerate, shares
from rt_scale.analyses.statistics import combined, refuse_negative_variances
from rt_scale.data.beton import Beton
from rt_scale.data.loaders.choose import training_subset
from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.data.prepared import Prepared
from rt_scale.data.subsets import nested_subset
from rt_scale.experiments.base import Outcome
from rt_scale.experiments.context import Context
from rt_scale.experiments.dependencies import weights_of
from rt_scale.experiments.landscape import TOGETHER, points_here
from rt_scale.experiments.objectives import clean_inputs
from rt_scale.models.networks import Weights, build_network, to_device
from rt_scale.probes.features import ToInputs
from rt_scale.spec.errors import RunError
from rt_scale.spec.experiments.landscape import LandscapeSpec
from rt_scale.spec.run import stream
from rt_scale.spec.stopping import Stopped
from rt_scale.store.run_dir import RunDir
from rt_scale.training.precision import parameter_dtype, set_precision

ARTIFACTS = {1: "line.npz", 2: "plane.npz"}
"""By the number of axes."""
DIGEST, VALUES = "networks.json", "values.npz"
"""Files of a checkpoint: the SHA-256 of each network, and the values so far."""
REPORTS = 20
"""Times that a plane logs how far it is."""


@dataclass
class Values:
    """What is known of a plane: float64 [H, W] a measure, NaN where it is not measured yet.

    ``done`` [H, W] says which points are measured, as a measure may be NaN. ``corners`` are the values of its three
    networks, of a line two, and those of the path after them. A line is a plane of one row.
    """

    done: np.ndarray
    corners: dict[str, np.ndarray] = field(default_factory=dict)
    grids: dict[str, np.ndarray] = field(default_factory=dict)

    def put(self, points: np.ndarray, found: Mapping[str, np.ndarray]) -> None:
        """Values [n] a measure, of the points (row, column) [n, 2]."""
        where = tuple(points.T)
        for name, values in found.items():
            self.grids.setdefault(name, np.full(self.done.shape, np.nan))[where] = values
        self.done[where] = True

    def take(self, other: Values, stride: int) -> None:
        """Those of a plane of which each point is every ``stride``-th of this one."""
        rows, columns = np.nonzero(other.done)
        points = np.stack([rows, columns], axis=1)
        self.put(points * stride, {name: grid[rows, columns] for name, grid in other.grids.items()})
        self.corners = other.corners

    def to_bytes(self) -> bytes:
        """As an npz file."""
        return npz(done=self.done, **self.grids, **{f"corner_{name}": each for name, each in self.corners.items()})


def npz(**arrays: np.ndarray) -> bytes:
    """Arrays as the contents of an npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # none is called allow_pickle
    return file.getvalue()


def read_values(path: Path) -> Values:
    """The values in a file of a checkpoint."""
    with np.load(path, allow_pickle=False) as arrays:
        found = dict(arrays)
    done = found.pop("done")
    corners = {name: found.pop(name) for name in list(found) if name.startswith("corner_")}
    return Values(done, {name.removeprefix("corner_"): each for name, each in corners.items()}, found)


class PlaneRun:
    """One attempt at a plane, from its start or its newest checkpoint."""

    def __init__(self, spec: LandscapeSpec, context: Context) -> None:
        assert context.data is not None
        assert isinstance(context.data.main, Prepared)
        self.spec, self.context, self.data = spec, context, context.data.main
        run, info = spec.origin.run, context.data.main.info
        set_precision(run.precision)
        read = {name: weights_of(each, context.options.store, context.data) for name, each in spec.networks.items()}
        self.digest = {name: _digest(weights) for name, weights in read.items()}
        network = build_network(run, info.channels, run.data.size or info.size, torch.Generator())
        self.parameters = [name for name, _ in network.named_parameters()]
        self.path = [weights for name, weights in read.items() if name not in NAMES]
        self.weights = self._corners(read)
        self.gram = gram(self.weights, self.parameters)
        encoder = [name for name in self.parameters if name.startswith("encoder.")]
        self.gram_encoder = gram(self.weights, encoder)
        refuse_degenerate(self.gram)
        if spec.statistics == "interpolated":
            self._refuse_negative_variances()
        execution = context.execution
        dtype = parameter_dtype(run.precision)
        self.weights = [{name: value.to(context.device) for name, value in each.items()} for each in self.weights]
        self.network = to_device(network, context.device, dtype, channels_last=execution.channels_last).eval()
        sides = [axis(low, high, count) for (low, high), count in zip(spec.window, spec.points, strict=True)]
        self.x, self.y = (*sides, np.zeros(1))[:2]
        self.corners = CORNERS[: len(self.weights), : len(sides)]
        self.values = Values(np.zeros((len(self.y), len(self.x)), dtype=bool))

    def _corners(self, read: Mapping[str, Weights]) -> list[Weights]:
        """The weights of origin, x and, of a plane, y."""
        spec, origin = self.spec, read["origin"]
        if spec.directions == "random":
            generators = (torch.Generator().manual_seed(stream("landscape.direction", spec.seeds.student, number))
                          for number in range(len(spec.points)))  # fmt: skip
            return [origin, *(filter_normalised(origin, self.parameters, each) for each in generators)]
        if spec.directions == "pca":
            return [origin, *principal(origin, self.path, self.parameters, len(spec.points))]
        return [read[name] for name in NAMES if name in read]

    def _refuse_negative_variances(self) -> None:
        """Refuse a window in which interpolated statistics are none; variances are least at one of its corners."""
        for point in itertools.product(*self.spec.window):
            where = ", ".join(f"{each:g}" for each in point)
            refuse_negative_variances(combined(self.weights, shares(*point)), f"the point ({where})")

    def compute(self) -> Outcome:
        """Measure to the end."""
        context, total = self.context, points_here(self.spec)
        if not self._resume():
            self._begin()
        context.observer.stage("measuring")
        world, rank = context.group.world, context.group.rank
        left = [group for group in self._groups() if not self.values.done[tuple(group.T)].all()]
        done = total - sum(map(len, left))
        context.observer.started(done, total)
        for start in range(0, len(left), world):
            try:
                context.check_stop()
            except Stopped:
                self._save(done)
                raise
            among = left[start : start + world]
            self._put(among, self._measure(self._at(among[rank])) if rank < len(among) else None)
            done += sum(map(len, among))
            context.observer.stepped(done)
            if done == total or context.checkpoint_due(evaluated=True):
                self._save(done)
        return Outcome(context.metrics.last(), steps=total)

    def _groups(self) -> list[np.ndarray]:
        """The points (row, column) that are measured here, in groups [TOGETHER, 2]; the last one may be smaller.

        They depend on the spec alone, so that attempts, workers and shares measure the same points together.
        """
        if self.spec.shares:
            return []
        order = coarse_first(*self.spec.points)
        if self.spec.coarse is not None:
            order = order[(order % 2).any(axis=1)]
        groups = np.split(order, range(TOGETHER, len(order), TOGETHER))
        return groups if self.spec.share is None else groups[self.spec.share :: self.spec.split]

    def _at(self, group: np.ndarray) -> list[Weights]:
        """The networks at points (row, column) [n, 2]."""
        axes = len(self.spec.points)
        points = np.stack([self.x[group[:, 1]], self.y[group[:, 0]]], axis=1)[:, :axes]
        return [combined(self.weights, shares(*point)) for point in points]

    def _put(self, groups: Sequence[np.ndarray], mine: Mapping[str, np.ndarray] | None) -> None:
        """Put the values of groups, of which each rank has measured one, or none."""
        names, rank = list(self.values.corners), self.context.group.rank
        table = torch.zeros((len(groups), TOGETHER, len(names)), dtype=torch.float64)
        if mine is not None:
            found = torch.from_numpy(np.stack([mine[name] for name in names], axis=1))
            table[rank, : len(found)] = found
        table = self.context.group.sum(table.to(self.context.device)).cpu()  # others hold 0: it is exact
        for group, values in zip(groups, table.numpy(), strict=True):
            self.values.put(group, {name: values[: len(group), each] for each, name in enumerate(names)})

    def _measure(self, networks: Sequence[Weights]) -> dict[str, np.ndarray]:
        """The values [n] of each measure of networks."""
        found = self.measures.measure(networks)
        return {name: np.array([each[name] for each in found]) for name in self.spec.measures}

    @functools.cached_property
    def measures(self) -> PointMeasures:
        """What is measured at a point, with what is kept of origin."""
        spec, run, execution, data = self.spec, self.spec.origin.run, self.context.execution, self.data
        self.context.observer.stage("measuring origin")
        train = training_subset(run, data)
        inputs = clean_inputs(run, data.info, execution.channels_last)
        samples = data.info.train if train is None else len(train)
        probe = ProbeRecipe(
            images=spec.probe_images,
            steps=run.probe.epochs * -(-samples // run.probe.batch_size),
            batch_size=run.probe.batch_size,
            lr=run.probe.lr,
            neighbours=run.probe.knn,
            l2=run.probe.l2,
            seed=stream("probe", spec.seeds.probe),
        )
        return PointMeasures(
            self.network,
            self.weights[0],
            self._images(data.train, train, inputs),
            self._images(data.test, None, inputs),
            spec.measures,
            classes=len(data.info.classes),
            losses=spec.images,
            probe=probe,
            batch_size=run.train.batch_size,
            statistics="batch" if spec.statistics == "batch" else "given",
            precision=run.precision,
        )

    def _images(self, beton: Beton, subset: np.ndarray | None, inputs: ToInputs) -> Images:
        """The images of a split that are used, those of the smaller of the two numbers first."""
        spec, run = self.spec, self.spec.origin.run
        among = np.arange(beton.samples) if subset is None else subset
        chosen = np.arange(0)
        for number in sorted(min(each or len(among), len(among)) for each in (spec.images, spec.probe_images)):
            more = among[nested_subset(beton.labels[among], number, spec.seeds.data)]
            chosen = np.concatenate([chosen, more[~np.isin(more, chosen)]])
        loader = ResidentLoader(
            beton, subset=chosen, batch_size=run.train.batch_size, seed=0, device=self.context.execution.device,
            resident=self.context.options.resident,
        )  # fmt: skip
        batches = [(inputs(batch.images), batch.labels) for batch in loader.sequential()]
        return Images(*map(torch.cat, zip(*batches, strict=True)))

    def _begin(self) -> None:
        """Take over what other planes have, measure the corners, and write the first checkpoint."""
        spec = self.spec
        for other in filter(None, (spec.coarse, *spec.shares)):
            self.values.take(self._values_of(other), 1 if other.points == spec.points else 2)
        if not self.values.corners:
            self.values.corners = self.context.group.by_first(lambda: self._measure([*self.weights, *self.path]))
        for measure in self.values.corners:
            self.values.grids.setdefault(measure, np.full(self.values.done.shape, np.nan))
        known = self.values.corners | self._norms(self.corners)
        for number, name in enumerate(NAMES[: len(self.weights)]):
            self.context.log(0, 0.0, {f"{name}/{measure}": float(each[number]) for measure, each in known.items()})
        self._save(0)

    def _values_of(self, spec: LandscapeSpec) -> Values:
        """Those of a finished plane."""
        run_dir = self.context.options.store.run(spec)
        run_dir.refresh()
        finished = run_dir.result()
        if finished is None:
            raise RunError(f"The plane {spec.name}, whose points this one takes over, is not finished; run it first.")
        try:
            return run_dir.checkpoints.read(finished.steps, functools.partial(self._read, run_dir))
        except RunError as error:
            raise RunError(
                f"The points of the plane {spec.name} cannot be taken over: {error} Move the folder '{run_dir.path}' "
                "away to have them measured anew."
            ) from error

    def _read(self, run_dir: RunDir, folder: Path) -> Values:
        """The values of a checkpoint; RunError if its plane was of other networks."""
        before = json.loads((folder / DIGEST).read_bytes())
        changed = [name for name in before if before[name] != self.digest[name]]
        if changed:
            of = " and ".join(f"{name} ({self.spec.networks[name].run.name})" for name in changed)
            raise RunError(
                f"The weights of {of} are not those that the plane {run_dir.name} was begun with: the run was computed "
                f"anew, or its checkpoint replaced. Put it back, or move '{run_dir.path}' away."
            )
        return read_values(folder / VALUES)

    def _resume(self) -> bool:
        found = self.context.restore(functools.partial(self._read, self.context.run_dir))
        if found is not None:
            self.values = found
        return found is not None

    def _save(self, done: int) -> None:
        """Write the artifact and a checkpoint with ``done`` points, and log how far the plane is."""
        total = points_here(self.spec)
        self._log(done, total)
        self.context.artifact(ARTIFACTS[len(self.spec.points)], npz(**self._arrays()))

        def write(folder: Path) -> None:
            (folder / VALUES).write_bytes(self.values.to_bytes())
            (folder / DIGEST).write_text(json.dumps(self.digest))

        self.context.checkpoint(done, write)

    def _arrays(self) -> dict[str, np.ndarray]:
        """Those of the artifact; of a line without y, and [W] a measure."""
        axes = len(self.spec.points)
        grid = np.stack(np.meshgrid(self.x, self.y), axis=-1)[..., :axes]
        found = {"x": self.x, "y": self.y, **self.values.grids, **self._norms(grid)}
        if axes == 1:
            found = {name: values.ravel() for name, values in found.items() if name != "y"}
        found |= {"corners": self.corners, "gram": self.gram, "gram_encoder": self.gram_encoder}
        if self.path:
            found |= {f"path_{name}": values for name, values in self.places._asdict().items()}
            found |= {f"path_{name}": each[len(self.weights) :] for name, each in self.values.corners.items()}
        return found

    @functools.cached_property
    def places(self) -> Places:
        """Of the networks of the path."""
        return places(self.weights, self.path, self.parameters)

    def _norms(self, points: np.ndarray) -> dict[str, np.ndarray]:
        return {"norm": norms(self.gram, points), "norm_encoder": norms(self.gram_encoder, points)}

    def _log(self, done: int, total: int) -> None:
        """Record the number of points at every twentieth of them and, at the end, where KL is least."""
        known = int(self.context.metrics.last().get("plane/points", -1))
        if done < total and done * REPORTS // total == known * REPORTS // total:
            return
        values = {"plane/points": float(done)}
        if done == total:
            for measure, grid in self.values.grids.items():
                if measure.startswith("kl") and not np.isnan(grid).all():
                    row, column = np.unravel_index(np.nanargmin(grid), grid.shape)
                    found = {"": grid[row, column], "/x": self.x[column]}
                    found |= {"/y": self.y[row]} if len(self.spec.points) > 1 else {}
                    values |= {f"least/{measure}{key}": float(value) for key, value in found.items()}
        self.context.log(done, done / max(1, total), values)


def _digest(weights: Weights) -> str:
    """The SHA-256 of all tensors with their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
