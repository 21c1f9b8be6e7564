"""All probes of a spec, of a network or of the input pixels."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from rt_scale.models.own import seed_all
from rt_scale.plugins import load
from rt_scale.probes.convex import fit_logistic, fit_ridge
from rt_scale.probes.features import Features, Split, ToInputs, embed, standardise
from rt_scale.probes.knn import check_neighbours, knn_accuracy
from rt_scale.probes.linear import Classifier, LinearProbes, Problem
from rt_scale.probes.statistics import centre_and_scale
from rt_scale.spec.errors import RunError, shown
from rt_scale.spec.stopping import Stop, StopCheck, never, no_check, stop_check
from rt_scale.spec.training import OwnProbe, ProbeSpec
from rt_scale.training.distributed import ALONE, Group

EXTRA = "extra/"
"""Prefix of the numbers of plugins' probes."""
_KEY = re.compile(r"extra/[A-Za-z0-9_.-]{1,100}")


class Embedded(NamedTuple):
    """The embeddings of one network, of training and test images, and the seed of its linear classifiers."""

    train: Features
    test: Features
    seed: int


def screen(
    fit: Callable[..., Classifier],
    train: Features,
    test: Features,
    *,
    classes: int,
    l2: float = 1e-3,
    check_stop: StopCheck = no_check,
) -> float:
    """Test accuracy, in [0, 1], of the classifier that ``fit``, e.g. ``fit_ridge``, fits to scaled embeddings."""
    train_x, test_x = centre_and_scale(train.x, test.x)
    return fit(train_x, train.y, classes=classes, l2=l2, check_stop=check_stop).accuracy(test_x, test.y)


def probe_own(probe: OwnProbe, train: Features, test: Features, *, classes: int, seed: int) -> dict[str, float]:
    """The numbers of a plugin's probe, ``extra/<metric>`` or, of a mapping, ``extra/<metric>_<name>``.

    Global generators are seeded before it is called. RunError: it gives anything but numbers.
    """
    function = load(probe.name, probe.source)
    seed_all(seed)
    given = function(*train, *test, classes=classes, seed=seed, **probe.arguments)
    named = {f"_{key}": value for key, value in given.items()} if isinstance(given, Mapping) else {"": given}
    try:
        found = {f"{EXTRA}{probe.metric}{key}": float(value) for key, value in named.items()}
    except (TypeError, ValueError, RuntimeError):
        found = {}
    if not found or not all(_KEY.fullmatch(key) for key in found):
        raise RunError(f"The probe '{probe.name}' gives {shown(given)}: it must give a number, or numbers by name.")
    return found


class Prober:
    """Probes embeddings of clean training images on the test split (paper, section 3 'Probing').

    Accuracies, in [0, 1], have the names ``linear``, ``knn``, ``logistic`` and ``ridge``, and the same with
    ``_standardized`` for embeddings standardised per dimension by training statistics. Numbers of plugins' probes have
    the names ``extra/<metric>``.

    Args:
        spec: which probes, and the linear classifier's recipe.
        train, test: images to fit on and to measure on, in index order, without augmentation.
        group: the ranks that share the embedding of images. Rank 0 alone trains classifiers; the others wait.
        precision: in which networks embed images; probes do not use it.
        stop: called repeatedly; Stopped is raised on all ranks if it is true on any.

    Raises:
        InputError: more neighbours than training images.
    """

    def __init__(
        self,
        spec: ProbeSpec,
        train: Split,
        test: Split,
        to_inputs: ToInputs,
        *,
        classes: int,
        group: Group = ALONE,
        precision: str = "float32",
        stop: Stop = never,
    ) -> None:
        if spec.knn:
            check_neighbours(spec.knn, train.samples)
        self.spec, self.train, self.test = spec, train, test
        self.to_inputs, self.classes, self.group, self.precision = to_inputs, classes, group, precision
        self.check_stop, self._check_stop_alone = group.stop_check(stop), stop_check(stop)
        recipe = {"epochs": spec.epochs, "batch_size": spec.batch_size}
        self.linear = LinearProbes(classes, standardized=spec.standardized, lr=spec.lr, **recipe)

    def probe_network(self, encoder: nn.Module, seed: int) -> dict[str, float]:
        """Embed and probe one network."""
        return self.probe_features([self.embed_network(encoder, seed)])[0]

    def probe_input(self, seed: int) -> dict[str, float]:
        """Probe the flattened normalised pixels."""
        train, test = (self._embed(nn.Flatten(), split) for split in (self.train, self.test))
        return self.probe_features([Embedded(train, test, seed)])[0]

    def embed_network(self, encoder: nn.Module, seed: int) -> Embedded:
        """Embed both splits with ``encoder``, which is on the device of the inputs and keeps its mode."""
        return Embedded(self._embed(encoder, self.train), self.embed_test(encoder), seed)

    def embed_test(self, encoder: nn.Module) -> Features:
        """Embed the test images."""
        return self._embed(encoder, self.test)

    def _embed(self, encoder: nn.Module, split: Split) -> Features:
        return embed(encoder, split, self.to_inputs, self.group, precision=self.precision, check_stop=self.check_stop)

    def probe_features(self, embedded: Sequence[Embedded]) -> list[dict[str, float]]:
        """Probe the embeddings of one or more networks; all linear classifiers are trained as one batch.

        Classifiers of the same seed, also those on raw and on standardised embeddings, have the same initial weights
        and order, so that only the embeddings differ. ValueError for embeddings of several shapes.
        """
        return self.group.by_first(functools.partial(self._probe, embedded))

    def _probe(self, embedded: Sequence[Embedded]) -> list[dict[str, float]]:
        classifiers: Sequence[Sequence[Classifier | None]] = [[None, None]] * len(embedded)
        if self.spec.linear:
            classifiers = self.linear.fit(
                [Problem(*each.train, each.seed) for each in embedded], self._check_stop_alone
            )
        found = []
        for (train, test, seed), trained in zip(embedded, classifiers, strict=True):
            values = self._measure(train, test, trained[0])
            for probe in self.spec.extra:
                values |= probe_own(probe, train, test, classes=self.classes, seed=seed)
            if self.spec.standardized:
                train_x, test_x = standardise(train.x, test.x)
                measured = self._measure(train._replace(x=train_x), test._replace(x=test_x), trained[1])
                values |= {f"{name}_standardized": value for name, value in measured.items()}
            found.append(values)
        return found

    def _measure(self, train: Features, test: Features, linear: Classifier | None) -> dict[str, float]:
        spec, classes, check_stop = self.spec, self.classes, self._check_stop_alone
        values = {} if linear is None else {"linear": linear.accuracy(*test)}
        if spec.knn:
            values["knn"] = knn_accuracy(*train, *test, k=spec.knn, classes=classes, check_stop=check_stop)
        if spec.logistic:
            values["logistic"] = screen(fit_logistic, train, test, l2=spec.l2, classes=classes, check_stop=check_stop)
        if spec.ridge:
            values["ridge"] = screen(fit_ridge, train, test, l2=spec.l2, classes=classes, check_stop=check_stop)
        return values
