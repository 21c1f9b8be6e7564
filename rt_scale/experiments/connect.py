"""The kind connect: the straight lines between trained classifiers (linear mode connectivity; paper, figure 9)."""

from __future__ import annotations

import functools
import io
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rt_scale.data.prepared import KnownData, Prepared
from rt_scale.experiments.base import Cost, Experiment, Length, Needs, Outcome, Sets
from rt_scale.experiments.check import training_samples
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.experiments.connect import ESTIMATION_IMAGES, ConnectSpec
from rt_scale.spec.run import stream
from rt_scale.spec.stopping import Stopped

if TYPE_CHECKING:
    from rt_scale.analyses.alignment import Aligned
    from rt_scale.analyses.classifier import Choice, Classifiers, Measured
    from rt_scale.data.beton import Beton
    from rt_scale.data.loaders.base import Loader
    from rt_scale.experiments.context import Context
    from rt_scale.experiments.flops import RunWork
    from rt_scale.models.networks import Weights

STATE = "lines.json"
"""File of a checkpoint: what is measured so far."""
MEASURES = ("error", "loss")
ALIGNED = "_aligned"
"""Ends the names of what belongs to the line to the second network with its units in the order of the first's."""
FOR_STATISTICS = "estimation"
"""The images that estimate statistics, beside those of the splits."""


class Connect(Experiment[ConnectSpec]):
    """Every pair of ends; ``artifacts`` has curves, pairs and ends as tables."""

    spec = ConnectSpec

    def validate(self, spec: ConnectSpec, data: Sets | None) -> None:
        """Refuse more images than there are."""
        assert data is not None
        assert isinstance(data.main, Prepared)  # the ends learn labels, which drawn inputs lack
        there = {"test": len(data.main.test.labels), "train": training_samples(spec.run, data.main)}
        asked = [("images", spec.images, split) for split in spec.splits]
        for field, count, split in [*asked, ("estimation_images", spec.estimation_images, "train")]:
            if (count or 0) > there[split]:
                raise InputError(
                    f"{field} is {count}, but the {split} split of '{spec.run.data.name}' has {there[split]:,} images "
                    f"for these ends. Give at most {there[split]:,}, or null."
                )

    def needs(self, spec: ConnectSpec, data: Sets | None) -> Needs:
        """Memory for the images."""
        assert data is not None
        info = data.main.info
        return Needs(sum(image_counts(spec, info.train, info.test).values()) * info.channels * info.size**2)

    def cost(self, spec: ConnectSpec, known: KnownData) -> Cost:
        """Forward passes, but for a user's encoder, which is not run."""
        from rt_scale.experiments.flops import Phase, RunWork, Work, forward_work, meta_batch

        length, run = Length(spec.steps), spec.run
        info = known.main(run)
        assert info is not None, "asked for before it was known"
        if run.encoder.plugin is not None:
            return Cost(length, unknown=f"a plan does not run the plugin {run.encoder.plugin}")

        def count() -> RunWork:
            images = sum(image_counts(spec, info.train, info.test).values())
            point = forward_work(run, info) * (images / run.train.batch_size)
            return RunWork(Phase(Work()), Phase(point), Phase(Work()))

        return Cost(length, count, lambda: meta_batch(run, info))

    def load(self) -> None:
        """Import networks and loaders."""
        import rt_scale.analyses.alignment
        import rt_scale.analyses.classifier
        import rt_scale.experiments.objectives  # noqa: F401

    def run(self, spec: ConnectSpec, context: Context) -> Outcome:
        """Measure the ends, then line after line, from the newest checkpoint."""
        return _Lines(spec, context).measure()


def image_counts(spec: ConnectSpec, train: int, test: int) -> dict[str, int]:
    """Images that each network is given, by split, and of ``FOR_STATISTICS``; of a data set with so many images."""
    there = {"test": test, "train": spec.run.data.samples or train}
    counts: dict[str, int] = {split: spec.images or there[split] for split in spec.splits}
    if spec.estimates:
        counts[FOR_STATISTICS] = spec.estimation_images or min(ESTIMATION_IMAGES, there["train"])
    return counts


class _Lines:
    """One attempt at all lines.

    The state is what was measured, in order: each end, then the points between the ends, line after line.
    """

    def __init__(self, spec: ConnectSpec, context: Context) -> None:
        from rt_scale.analyses.line import positions

        self.spec, self.context = spec, context
        self.at = positions(spec.points)
        self.ends = _weights(spec, context)
        self.classifiers = _classifiers(spec, context)
        self.suffixes = ("",) if spec.align == "none" else ("", ALIGNED)
        self.second = functools.lru_cache(maxsize=1)(self._aligned)
        self.own: list[Measured] = []
        self.on_line: list[Measured] = []
        self.apart: list[dict[str, float]] = []

    def measure(self) -> Outcome:
        """Measure to the end."""
        context, total = self.context, self.spec.steps
        state = context.restore(lambda folder: json.loads((folder / STATE).read_text()))
        if state is not None:
            self.own, self.on_line, self.apart = state["own"], state["on_line"], state["apart"]
        context.observer.started(len(self.on_line), total)
        try:
            for step in range(len(self.on_line), total):
                context.check_stop()
                self._network(step)
                pairs = self._complete(step + 1)
                if new := pairs > self._complete(step):
                    self.apart += [self._apart(number) for number in range(len(self.apart), pairs)]
                    context.log(step + 1, pairs, self._metrics(pairs))
                    self._write(pairs)
                context.observer.stepped(step + 1)
                if step + 1 == total or context.checkpoint_due(evaluated=new):
                    self._checkpoint()
        except Stopped:
            if len(self.on_line) not in context.run_dir.checkpoints.steps():
                self._checkpoint()
            raise
        return Outcome(context.metrics.last(), total, len(self.spec.pairs))

    def _complete(self, steps: int) -> int:
        """The number of pairs that are complete after so many networks."""
        of_pair, on_lines = (self.spec.points - 2) * len(self.suffixes), steps - len(self.ends)
        if on_lines < 0:
            return 0
        return on_lines // of_pair if of_pair else len(self.spec.pairs)

    def _network(self, step: int) -> None:
        """Measure the network of a step."""
        from rt_scale.analyses.statistics import batch_norms, combined

        measure, ends = self.classifiers.measure, len(self.ends)
        statistics: Choice = "kept" if self.spec.statistics == "interpolated" else self.spec.statistics
        if step < ends:
            self.context.observer.stage(f"end {step + 1} of {ends}")
            own = measure(self.ends[step], "kept")
            same = statistics == "kept" or not batch_norms(self.classifiers.network)
            on_line = own if same else measure(self.ends[step], statistics)
            self.own.append(own)
        else:
            line, point = divmod(step - ends, self.spec.points - 2)
            number, aligned = divmod(line, len(self.suffixes))
            (first, second), at = self.spec.pairs[number], self.at[point + 1]
            self.context.observer.stage(f"line {line + 1} of {len(self.spec.pairs) * len(self.suffixes)}")
            last = self.second(number).weights if aligned else self.ends[second]
            weights = combined([self.ends[first], last], [1 - at, at])
            on_line = measure(weights, statistics)
        self.on_line.append(on_line)

    def _apart(self, number: int) -> dict[str, float]:
        """Distance and cosine of the ends of a line, over all parameters of the whole network; also once aligned."""
        from rt_scale.analyses.line import apart

        first, second = (self.ends[end] for end in self.spec.pairs[number])
        parameters = [name for name, _ in self.classifiers.network.named_parameters()]
        found = apart(first, second, parameters)._asdict()
        if ALIGNED not in self.suffixes:
            return found
        aligned = self.second(number)
        of_aligned = apart(first, aligned.weights, parameters)._asdict()
        return {**found, **{name + ALIGNED: value for name, value in of_aligned.items()}, "permuted": aligned.moved}

    def _aligned(self, number: int) -> Aligned:
        """The second end of a pair with its units in the order of the first's."""
        import torch

        from rt_scale.analyses.alignment import align
        from rt_scale.analyses.units import hidden_units

        assert self.context.data is not None
        (first, second), run, info = self.spec.pairs[number], self.spec.run, self.context.data.main.info
        self.context.observer.stage(f"units of ends {first} and {second} are matched")
        groups = hidden_units(self.classifiers.network, info.channels, run.data.size or info.size)
        generator = torch.Generator().manual_seed(stream("connect.align", self.spec.seeds.data, first, second))
        return align(self.ends[first], self.ends[second], groups, generator)

    def _curves(self, number: int) -> list[dict[str, Any]]:
        """The values on the lines of a pair, a row for each split and position."""
        (first, second), inner = self.spec.pairs[number], self.spec.points - 2
        begin, lines = len(self.ends) + number * len(self.suffixes) * inner, {}
        for suffix in self.suffixes:
            # The second end computes the same in any order of its units.
            lines[suffix] = [self.on_line[first], *self.on_line[begin : begin + inner], self.on_line[second]]
            begin += inner
        rows = []
        for split, (place, at) in itertools.product(self.spec.splits, enumerate(self.at)):
            row = {"first": first, "second": second, "split": split, "position": float(at)}
            for suffix, line in lines.items():
                row |= {name + suffix: value for name, value in _values(line[place][split]).items()}
            rows.append(row)
        return rows

    def _barriers(self, number: int) -> list[dict[str, Any]]:
        """The barriers between the ends of a pair and their distance, a row for each split and measure."""
        from rt_scale.analyses.line import barrier

        first, second = self.spec.pairs[number]
        curves, rows = self._curves(number), []
        for split, measure in itertools.product(self.spec.splits, MEASURES):
            row: dict[str, Any] = {"first": first, "second": second, "split": split, "measure": measure}
            for suffix in self.suffixes:
                values = [each[measure + suffix] for each in curves if each["split"] == split]
                found = barrier(self.at, np.array(values))
                row |= {f"barrier{suffix}": found.over_mean, f"barrier_line{suffix}": found.over_line}
            rows.append({**row, **self.apart[number]})
        return rows

    def _metrics(self, pairs: int) -> dict[str, float]:
        """Means over the first lines, and over all ends with their own statistics."""
        rows = [row for number in range(pairs) for row in self._barriers(number)]
        barriers = [name + suffix for suffix in self.suffixes for name in ("barrier", "barrier_line")]
        found = {
            f"{name}/{split}/{measure}": [
                row[name] for row in rows if (row["split"], row["measure"]) == (split, measure)
            ]
            for name, split, measure in itertools.product(barriers, self.spec.splits, MEASURES)
        }
        for split, measure in itertools.product(self.spec.splits, ("accuracy", "loss")):
            found[f"ends/{split}/{measure}"] = [own[split][measure] for own in self.own]
        for name in self.apart[0]:
            found[f"ends/{name}"] = [each[name] for each in self.apart]
        return {name: float(np.mean(values)) for name, values in found.items()}

    def _write(self, pairs: int) -> None:
        """Write the tables of the first lines."""
        ends = [
            {"end": number, "run": end.run.name, "take": end.take, "split": split, **_values(own[split]),
             **{f"{name}_on_line": value for name, value in _values(on_line[split]).items()}}
            for number, (end, own, on_line) in enumerate(zip(self.spec.ends, self.own, self.on_line, strict=False))
            for split in self.spec.splits
        ]  # fmt: skip
        curves = [row for number in range(pairs) for row in self._curves(number)]
        barriers = [row for number in range(pairs) for row in self._barriers(number)]
        for name, rows in {"ends": ends, "curves": curves, "pairs": barriers}.items():
            file = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows), file)
            self.context.artifact(f"{name}.parquet", file.getvalue())

    def _checkpoint(self) -> None:
        state = {"own": self.own, "on_line": self.on_line, "apart": self.apart}
        self.context.checkpoint(len(self.on_line), lambda folder: _write_state(folder, state))


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    (folder / STATE).write_text(json.dumps(state))


def _values(measured: dict[str, float]) -> dict[str, float]:
    """Loss, error and accuracy."""
    return {"loss": measured["loss"], "error": 1 - measured["accuracy"], "accuracy": measured["accuracy"]}


def _weights(spec: ConnectSpec, context: Context) -> list[Weights]:
    """The weights of the ends on the device; RunError if two of them are equal."""
    from rt_scale.experiments.dependencies import weights_of

    device = context.execution.device
    ends = [weights_of(end, context.options.store, context.data) for end in spec.ends]
    for first, second in spec.pairs:
        if all(value.equal(ends[second][name]) for name, value in ends[first].items()):
            raise RunError(
                f"The ends {first} and {second} have equal weights, bit for bit, so there is no line between them. "
                f"Their runs {spec.ends[first].run.name} and {spec.ends[second].run.name} must differ in what they "
                "compute: in the order of their images, for instance, and for at least one step."
            )
    return [{name: value.to(device) for name, value in weights.items()} for weights in ends]


def _classifiers(spec: ConnectSpec, context: Context) -> Classifiers:
    """The network on the device, and the images of each split and for statistics, in fixed orders."""
    import torch

    from rt_scale.analyses.classifier import Classifiers
    from rt_scale.data.loaders.choose import training_subset
    from rt_scale.experiments.objectives import clean_inputs
    from rt_scale.models.networks import build_network, to_device
    from rt_scale.training.precision import parameter_dtype, set_precision

    assert context.data is not None
    assert isinstance(context.data.main, Prepared)
    data, run, execution = context.data.main, spec.run, context.execution
    info = data.info
    set_precision(run.precision)
    network = build_network(run, info.channels, run.data.size or info.size, torch.Generator())
    subset = training_subset(run, data)
    training = np.arange(info.train) if subset is None else subset
    splits = {}
    for name, count in image_counts(spec, info.train, info.test).items():
        beton, among = (data.test, np.arange(info.test)) if name == "test" else (data.train, training)
        splits[name] = _loader(spec, context, beton, among, count)
    return Classifiers(
        to_device(network, execution.device, parameter_dtype(run.precision), channels_last=execution.channels_last),
        estimation=splits.pop(FOR_STATISTICS, None),
        splits=splits,
        to_inputs=clean_inputs(run, info, execution.channels_last),
        precision=run.precision,
        check_stop=context.check_stop,
    )


def _loader(spec: ConnectSpec, context: Context, beton: Beton, among: np.ndarray, count: int) -> Loader:
    """The first ``count`` images of a fixed order of those at the positions ``among``.

    They are shuffled, as files may be sorted by class, and batches give statistics.
    """
    from rt_scale.data.loaders.base import MapLoader, Order
    from rt_scale.data.loaders.resident import ResidentLoader

    generator = np.random.Generator(np.random.PCG64(stream("connect.images", spec.seeds.data)))
    chosen = generator.permutation(among)[:count]
    # The last batch may be smaller, but a single image may have no variance.
    size = next(size for size in itertools.count(spec.run.train.batch_size) if count % size != 1 or count == 1)
    order: Order = {"batch_size": size, "seed": 0, "device": context.execution.device}
    if (loader := context.execution.loader) in ("map", "ffcv"):
        return MapLoader(beton, subset=chosen, **order)
    return ResidentLoader(beton, subset=chosen, host=loader == "host", resident=context.options.resident, **order)
