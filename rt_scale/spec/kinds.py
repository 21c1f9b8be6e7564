"""The kinds of runs by name: the spec of each, and where its experiment is."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from rt_scale.plugins import Names, Plugin, load
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.connect import ConnectSpec
from rt_scale.spec.experiments.landscape import LandscapeSpec
from rt_scale.spec.experiments.training import DistillSpec, SuperviseSpec
from rt_scale.spec.run import OwnSpec, RunSpec


class Kind(NamedTuple):
    """A kind of run: its spec, and as ``module:attribute`` where its ``Experiment`` is (see ``experiments.base``), and
    what a report shows of its runs (see ``report.analyses.base``) beside their metrics."""

    spec: type[RunSpec]
    experiment: str
    report: tuple[str, ...] = ()


_TRAINING = "rt_scale.experiments.training:Training"
_LAYERS = "rt_scale.report.analyses.layers:analysis"
_LABELS = "rt_scale.report.analyses.labels:analysis"
KINDS = {
    "distill": Kind(DistillSpec, _TRAINING, (_LABELS, _LAYERS)),
    "supervise": Kind(SuperviseSpec, _TRAINING, ("rt_scale.report.analyses.pruning:analysis", _LABELS, _LAYERS)),
    "connect": Kind(
        ConnectSpec, "rt_scale.experiments.connect:Connect", ("rt_scale.report.analyses.connectivity:analysis",)
    ),
    "landscape": Kind(
        LandscapeSpec, "rt_scale.experiments.landscape:Landscape", ("rt_scale.report.analyses.landscapes:analysis",)
    ),
}
"""Every kind by name."""
DEFAULT = "distill"
"""The kind of a document that names none."""


def kinds_of(base: type[RunSpec]) -> list[str]:
    """Names of the kinds whose specs are a ``base``."""
    return [name for name, kind in KINDS.items() if issubclass(kind.spec, base)]


def model_of(kind: object) -> type[RunSpec] | None:
    """The spec of the kind of that name; None if it is unknown, or a user's and not imported."""
    if not isinstance(kind, str):
        return None
    return KINDS[kind].spec if kind in KINDS else _OWN[kind].spec if kind in _OWN else None


_OWN: dict[str, Any] = {}
"""The experiments of users that this process has imported, by reference."""


def experiment(kind: str) -> Any:
    """The experiment of a kind: a subclass of ``experiments.base.Experiment``."""
    if kind in _OWN:
        return _OWN[kind]
    return _attribute(KINDS[kind].experiment)


def analyses(kind: str) -> list[Any]:
    """The functions that make ``report.analyses.base.Analysis`` of runs of a kind."""
    return [_attribute(reference) for reference in (KINDS[kind].report if kind in KINDS else ())]


def _attribute(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def import_kinds(document: object, names: Names | None = None) -> None:
    """Import the kinds of a user's that a document names, at any depth; only what executes runs calls it.

    ``names``: what names stand for. InputError: one cannot be imported, is no experiment, or its source is another.
    """
    if isinstance(document, Mapping):
        kind = document.get("kind")
        if isinstance(kind, str) and kind not in KINDS:
            _import_kind(kind, document.get("source"), names or Names())
        document = document.values()
    elif not isinstance(document, list | tuple):
        return
    for each in document:
        import_kinds(each, names)


def _import_kind(kind: str, source: object, names: Names) -> None:
    plugin = Plugin(kind, source) if isinstance(source, str) else names.find("experiment", kind)
    if plugin is None:  # not a kind of run, such as that of an augmentation, or one that validation refuses
        return
    found = load(plugin.reference, plugin.source)
    spec = getattr(found, "spec", None)
    if not isinstance(spec, type) or not issubclass(spec, OwnSpec):
        raise InputError(
            f"'{plugin.reference}' is no kind of run: write a subclass of rt_scale.experiments.base.Experiment whose "
            "spec is a subclass of rt_scale.spec.run.OwnSpec."
        )
    _OWN[plugin.reference] = found
