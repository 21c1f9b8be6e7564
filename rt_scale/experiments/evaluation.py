"""Probes and statistics of input, teacher and student between steps of training, by metric name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rt_scale.data.loaders.base import Loader
from rt_scale.data.loaders.resident import Resident, ResidentLoader
from rt_scale.data.prepared import Prepared
from rt_scale.data.subsets import nested_subset
from rt_scale.experiments.base import Sets
from rt_scale.experiments.check import probed_size
from rt_scale.losses.supervised import supervised_cross_entropy
from rt_scale.models.networks import Network, Pair
from rt_scale.probes.evaluator import EXTRA, Embedded, Prober
from rt_scale.probes.features import Features, evaluation_mode
from rt_scale.probes.geometry import geometry
from rt_scale.probes.layers import LayerProbe
from rt_scale.probes.statistics import agreement, feature_statistics
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.metrics import ProbeName, extra_name
from rt_scale.spec.run import stream
from rt_scale.spec.stopping import Stop, StopCheck, never, no_check
from rt_scale.training.distributed import ALONE, Group
from rt_scale.training.loop import Means
from rt_scale.training.precision import arithmetic, parameter_dtype

_ROWS = 4096
"""Embeddings a pass of a projector, whose hidden layers are wider than embeddings."""

Stage = Callable[[str], None]


class Evaluation:
    """Probes on every data set that the spec names, and the statistics that it asks for.

    Metric names are those of ``spec.metrics``. Statistics are ``features/<role>/<statistic>`` and
    ``layers/<role>/<statistic>_<layer>``, of the main data set's test images, ``distance/<part>/<from>`` and
    ``angle/<part>/<from>``; a student that classifies has ``test/loss`` and ``test/accuracy``.

    Args:
        probers: by data set; None is the main one, which has no prober without labels.
        pair: teacher and student, measured in their state at each call.
        initial: the student's parameters at its start.
        stage: is called with a text for each stage.
        layers: measures every layer of networks and input; None: they are not measured.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        probers: Mapping[str | None, Prober],
        pair: Pair,
        initial: list[Tensor],
        stage: Stage,
        check_stop: StopCheck = no_check,
        layers: LayerProbe | None = None,
    ) -> None:
        self.spec, self.probers, self.stage, self.check_stop, self.layers = spec, probers, stage, check_stop, layers
        self.teacher, self.student = pair
        self.references: dict[str, list[Tensor]] = {"from_init": initial}
        self.references["from_teacher"] = list(self.teacher.parameters())
        # One seed for input, teacher and student at every epoch: only the embeddings differ.
        self.seed = stream("probe", spec.seeds.probe)
        self._teacher_test: Tensor | None = None
        self._probed_teacher: dict[str, float] = {}

    def constant(self) -> dict[str, float]:
        """Measure what never changes: the input, and a frozen teacher."""
        values: dict[str, float] = {}
        for data, prober in self.probers.items() if "input" in self.spec.probe.roles else ():
            self.stage(f"probing input pixels{_on(data)}")
            values |= _named("input", data, prober.probe_input(self.seed))
        if self.layers is not None and self.spec.probe.baselines:
            values |= _grouped("layers", "input", self.layers.input())
        if not self.spec.teacher.moves:
            self._probed_teacher = self._networks({"teacher": self.teacher})
        return values | self._probed_teacher

    def changing(self) -> dict[str, float]:
        """Measure the present student, and a teacher that moves."""
        if self._probed_teacher and not self._described("student") and self._is_teacher(self.student.encoder):
            return {name.replace("/teacher/", "/student/", 1): each for name, each in self._probed_teacher.items()}
        moving = {"teacher": self.teacher} if self.spec.teacher.moves else {}
        values = self._networks(moving | {"student": self.student})
        if self.spec.probe.statistics:
            values |= geometry(self.student, self.references)
        return values

    def _is_teacher(self, encoder: nn.Module) -> bool:
        """Whether ``encoder`` has the teacher's weights and buffers bit for bit, and so its probes."""
        pairs = zip(encoder.state_dict().values(), self.teacher.encoder.state_dict().values(), strict=True)
        return all(torch.equal(one, other) for one, other in pairs)

    def _networks(self, networks: Mapping[str, Network]) -> dict[str, float]:
        """Probe networks by role, batched, on every data set, and describe them on the main one, as the spec asks."""
        values: dict[str, float] = {}
        described: dict[str, float] = {}
        roles = self.spec.probe.roles
        asked = {role: network for role, network in networks.items() if role in roles or self._described(role)}
        for data, prober in self.probers.items() if asked else ():
            self.stage(f"{'probing' if roles else 'testing'} the {' and the '.join(asked)}{_on(data)}")
            probed: dict[str, Embedded] = {}
            for role, network in asked.items():
                if role in roles:
                    probed[role] = prober.embed_network(network.encoder, self.seed)
                if data is None and self._described(role):
                    test = probed[role].test if role in roles else prober.embed_test(network.encoder)
                    described |= self._describe(role, network, test)
            for role, found in zip(probed, prober.probe_features([*probed.values()]) if probed else (), strict=True):
                values |= _named(role, data, found)
        for role, network in networks.items():
            if self.layers is not None and (role == "student" or self.spec.probe.baselines):
                self.stage(f"measuring the layers of the {role}")
                described |= _grouped("layers", role, self.layers.network(network.encoder))
        return values | described

    def _described(self, role: str) -> bool:
        """Whether the spec asks for more of a network than probes."""
        return self.spec.probe.statistics or (self.spec.classifies and role == "student")

    def _describe(self, role: str, network: Network, test: Features) -> dict[str, float]:
        """The other metrics that the spec asks for, from embeddings of the main set's test images."""
        values: dict[str, float] = {}
        if self.spec.classifies and role == "student":
            values |= test_classifier(network.projector, test, self.spec.precision)
        if self.spec.probe.statistics:
            values |= _grouped("features", role, feature_statistics(test.x, self.check_stop))
            if role == "teacher":
                self._teacher_test = test.x
            else:
                if self._teacher_test is None:  # a resumed run reads its teacher's probes and embeds nothing
                    self._teacher_test = self.probers[None].embed_test(self.teacher.encoder).x
                alike = agreement(test.x, self._teacher_test, self.check_stop)
                values |= _grouped("features", role, {f"{name}_teacher": value for name, value in alike.items()})
        return values


@torch.no_grad()
def test_classifier(projector: nn.Module, test: Features, precision: str) -> dict[str, float]:
    """``test/loss`` (nats) and ``test/accuracy`` (share) of a classifier in evaluation mode, from its embeddings."""
    means = Means()
    with evaluation_mode(projector):
        for x, labels in zip(*(torch.split(each, _ROWS) for each in test), strict=True):
            with arithmetic(precision, x.device):
                logits = projector(x.to(parameter_dtype(precision)))
            loss, accuracy = supervised_cross_entropy(logits, labels)
            means.add({"test/loss": loss, "test/accuracy": accuracy}, len(labels))
    return means.read()


def build_probers(
    spec: TrainingSpec,
    sets: Sets,
    train: Loader,
    inputs: functools.partial[Tensor],
    group: Group = ALONE,
    resident: Resident | None = None,
    stop: Stop = never,
) -> dict[str | None, Prober]:
    """A prober for the main data set (key None), if it is to be probed, and one for each of ``probe.also``.

    The main prober fits its classifiers on ``train``, the student's training images; ``inputs`` is made by
    ``objectives.clean_inputs``.
    """
    main = sets.main
    loader = functools.partial(
        ResidentLoader,
        batch_size=train.batch_size,
        seed=train.seed,
        device=train.device,
        rank=group.rank,
        world=group.world,
        resident=resident,
    )
    prober = functools.partial(Prober, spec.probe, group=group, precision=spec.precision, stop=stop)
    probers: dict[str | None, Prober] = {}
    if isinstance(main, Prepared) and main.info.labelled and spec.probe.own:
        probers[None] = prober(train, loader(main.test), inputs, classes=len(main.info.classes))
    for name, data in sets.also.items():
        size = probed_size(spec, main.info, data.info)
        convert = functools.partial(inputs, mean=data.info.mean, std=data.info.std, size=size)
        fit, held = loader(data.train), loader(data.test)
        probers[name] = prober(fit, held, convert, classes=len(data.info.classes))
    return probers


def build_layer_probe(
    spec: TrainingSpec,
    sets: Sets,
    train: Loader,
    inputs: functools.partial[Tensor],
    group: Group = ALONE,
    resident: Resident | None = None,
    stop: Stop = never,
) -> LayerProbe | None:
    """What measures the layers on test images of the main set, if the spec asks for it; arguments as of
    ``build_probers``."""
    if spec.probe.layers is None or not isinstance(sets.main, Prepared):
        return None
    test = sets.main.test
    chosen = nested_subset(test.labels, spec.probe.layers.images, spec.seeds.data)
    images = ResidentLoader(
        test, batch_size=train.batch_size, seed=0, device=train.device, subset=chosen, resident=resident
    )
    return LayerProbe(images, inputs, group, precision=spec.precision, stop=stop)


def _named(role: str, data: str | None, values: Mapping[str, float]) -> dict[str, float]:
    names = (
        extra_name(ProbeName(role, probe.removeprefix(EXTRA), data))
        if probe.startswith(EXTRA)
        else str(ProbeName(role, probe, data))
        for probe in values
    )
    return dict(zip(names, values.values(), strict=True))


def _grouped(group: str, role: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{group}/{role}/{name}": value for name, value in values.items()}


def _on(data: str | None) -> str:
    return "" if data is None else f" on {data}"
