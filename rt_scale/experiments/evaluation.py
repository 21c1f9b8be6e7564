"""What is measured of input, teacher and student between steps of training, by metric name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rt_scale.data.inputs import to_inputs
from rt_scale.data.resident import ResidentLoader
from rt_scale.experiments.check import Sets
from rt_scale.models.pair import Network, Pair
from rt_scale.probing.features import ToInputs, embed
from rt_scale.probing.geometry import geometry
from rt_scale.probing.prober import Prober
from rt_scale.probing.statistics import agreement, feature_statistics
from rt_scale.spec.metric_names import ProbeName
from rt_scale.spec.run import RunSpec
from rt_scale.spec.seeding import stream

Stage = Callable[[str], None]


class Evaluation:
    """Probes on every data set that the spec names, and statistics where it asks for them.

    Names are those of ``spec.metric_names``; statistics are ``features/<role>/<statistic>``, of the test
    images of the data set that is distilled on, ``distance/<part>/<from>`` and ``angle/<part>/<from>``.

    Args:
        spec: its ``probe`` and ``seeds.probe`` are read.
        probers: one a data set; None names the one that is distilled on.
        pair: the teacher, which does not change, and the student, measured as it then is.
        initial: the student's parameters at its start.
        stage: told what is being done.
    """

    def __init__(
        self,
        spec: RunSpec,
        probers: Mapping[str | None, Prober],
        pair: Pair,
        initial: list[Tensor],
        stage: Stage,
    ) -> None:
        self.spec, self.probers, self.stage = spec, probers, stage
        self.teacher, self.student = pair
        self.references: dict[str, list[Tensor]] = {"from_init": initial}
        self.references["from_teacher"] = list(self.teacher.parameters())
        # One draw for input, teacher and student at every epoch: their differences are the embeddings' own.
        self.seed = stream("probe", spec.seeds.probe)
        self._teacher_test: Tensor | None = None

    def constant(self) -> dict[str, float]:
        """Measure input and teacher, which stay what they are."""
        values: dict[str, float] = {}
        for data, prober in self.probers.items():
            self.stage(f"probing input pixels{_on(data)}")
            values |= _named("input", data, prober.probe_input(self.seed))
        kept: list[Tensor] = []
        values |= self._network("teacher", self.teacher, kept.append)
        if kept:
            self._teacher_test = kept[0]
            values |= _features("teacher", feature_statistics(kept[0]))
        return values

    def changing(self) -> dict[str, float]:
        """Measure the student as it is now."""
        statistics: dict[str, float] = {}

        def describe(test: Tensor) -> None:
            statistics.update(_features("student", feature_statistics(test)))
            alike = agreement(test, self._teacher_features())
            statistics.update(_features("student", {f"{name}_teacher": value for name, value in alike.items()}))

        values = self._network("student", self.student, describe)
        if self.spec.probe.statistics:
            values |= statistics | geometry(self.student, self.references)
        return values

    def _network(self, role: str, network: Network, watch: Callable[[Tensor], None]) -> dict[str, float]:
        """Probe on every data set; ``watch`` sees the test embeddings of the main one if there are statistics."""
        values: dict[str, float] = {}
        for data, prober in self.probers.items():
            self.stage(f"probing the {role}{_on(data)}")
            seen = watch if data is None and self.spec.probe.statistics else None
            values |= _named(role, data, prober.probe_network(network.encoder, self.seed, seen))
        return values

    def _teacher_features(self) -> Tensor:
        """The teacher's test embeddings, computed once: by its probes, or here where the run was resumed."""
        if self._teacher_test is None:
            prober = self.probers[None]
            self._teacher_test = embed(self.teacher.encoder, prober.test, prober.to_inputs).x
        return self._teacher_test


def build_probers(
    spec: RunSpec, sets: Sets, train: ResidentLoader, inputs: ToInputs, dtype: torch.dtype
) -> dict[str | None, Prober]:
    """A prober for the set that is distilled on, then one for each of ``probe.also``.

    Args:
        spec: its ``probe``, ``data`` and ``train.batch_size`` are read.
        sets: the data sets, which fit the spec.
        train: the training images that the student is distilled on, on which the main prober fits too.
        inputs: from the main set's images to a network's inputs.
        dtype: of the inputs.
    """
    main = sets.main.info
    loader = functools.partial(ResidentLoader, batch_size=train.batch_size, seed=train.seed, device=train.device)
    probers: dict[str | None, Prober] = {
        None: Prober(spec.probe, train, loader(sets.main.test), inputs, classes=len(main.classes))
    }
    for name, data in sets.also.items():
        # What the encoder sees: its size, but this set's own mean and standard deviation.
        convert = functools.partial(
            to_inputs, mean=data.info.mean, std=data.info.std, size=spec.data.size or main.size, dtype=dtype
        )
        fit, held = loader(data.train), loader(data.test)
        probers[name] = Prober(spec.probe, fit, held, convert, classes=len(data.info.classes))
    return probers


def _named(role: str, data: str | None, values: Mapping[str, float]) -> dict[str, float]:
    return {str(ProbeName(role, probe, data)): value for probe, value in values.items()}


def _features(role: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"features/{role}/{name}": value for name, value in values.items()}


def _on(data: str | None) -> str:
    return "" if data is None else f" on {data}"
