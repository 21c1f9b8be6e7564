"""Names of metrics, and which of them a run logs and when, from its spec.

Accuracies are ``probe/<role>/<probe>`` on the data set that the run distils on and ``probe@<set>/<role>/<probe>`` on
another (TensorBoard groups by the text before the first slash); roles are input, teacher and student. Numbers of a
plugin's probe are ``extra/<role>/<probe>`` and ``extra@<set>/<role>/<probe>``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from rt_scale.spec.run import When
from rt_scale.spec.training import ProbeSpec

Bounds = tuple[float, float]
"""Least and greatest possible value."""
ACCURACY: Bounds = (0.0, 1.0)
_AT_LEAST_0: Bounds = (0.0, math.inf)
_BOUNDS: dict[str, Bounds] = {
    "*/accuracy": ACCURACY,
    "train/*": _AT_LEAST_0,
    "test/loss": _AT_LEAST_0,
    "distance/*": _AT_LEAST_0,
    "angle/*": (0.0, 180.0),
    "barrier*/error": (0.0, 1.0),
    "barrier*/loss": _AT_LEAST_0,
    "ends/cosine*": (-1.0, 1.0),
    "ends/permuted": (0.0, 1.0),
    "ends/*": _AT_LEAST_0,
    "curvature/residual_*": _AT_LEAST_0,
    "curvature/trace_error": _AT_LEAST_0,
    "sparsity/*": (0.0, 1.0),
    "features/*/dead_units": (0.0, 1.0),
    "features/*/cka_teacher": (0.0, 1.0),
    "features/*/cosine_teacher": (-1.0, 1.0),
    "features/*": _AT_LEAST_0,
    "layers/*/cosine*": (-1.0, 1.0),
    "layers/*/separability*": (0.0, 1.0),
    "layers/*": _AT_LEAST_0,
}
"""Pattern -> bounds, for all metrics but accuracies of probes; the first matching pattern applies."""


class ProbeName(NamedTuple):
    """The parts of the name of a probe's accuracy; ``data`` is None for the data set that the run distils on."""

    role: str
    probe: str
    data: str | None = None

    def __str__(self) -> str:
        return f"{probe_group(self.data)}/{self.role}/{self.probe}"


def probe_group(data: str | None) -> str:
    """The name's text before the first slash: ``probe``, or ``probe@<data>`` for another data set."""
    return "probe" if data is None else f"probe@{data}"


def parse_probe_name(name: str) -> ProbeName | None:
    """The parts of the metric ``name`` if it is a probe's accuracy, else None."""
    group, *rest = name.split("/")
    kind, at, data = group.partition("@")
    if kind != "probe" or len(rest) != 2 or bool(at) != bool(data):
        return None
    return ProbeName(rest[0], rest[1], data or None)


def extra_name(probe: ProbeName) -> str:
    """The name of a number of a plugin's probe, which is no accuracy."""
    return f"extra{str(probe).removeprefix('probe')}"


def parse_extra_name(name: str) -> ProbeName | None:
    """The parts of the metric ``name`` if it is of a plugin's probe, else None."""
    return parse_probe_name(f"probe{name.removeprefix('extra')}") if name.startswith("extra") else None


def is_constant(name: str, *, frozen_teacher: bool) -> bool:
    """Whether the metric is measured once a run: metrics of the input, and of a frozen teacher."""
    parsed = parse_probe_name(name) or parse_extra_name(name)
    roles = ("input", "teacher") if frozen_teacher else ("input",)
    measured = tuple(f"{group}/{role}/" for group in ("features", "layers") for role in roles)
    return name.startswith(measured) or (parsed is not None and parsed.role in roles)


def metric_bounds(name: str) -> Bounds:
    """The range of the metric ``name`` by its definition; unbounded for an unknown metric."""
    if parse_probe_name(name) is not None:
        return ACCURACY
    return next((bounds for pattern, bounds in _BOUNDS.items() if fnmatchcase(name, pattern)), (-math.inf, math.inf))


def difference_bounds(bounds: Bounds) -> Bounds:
    """The range of the difference of two values within ``bounds``."""
    return bounds[0] - bounds[1], bounds[1] - bounds[0]


_OF_EMBEDDINGS = ("effective_rank", "participation_ratio", "dead_units", "std")
_STATISTICS = (
    *(f"features/{role}/{name}" for role in ("student", "teacher") for name in _OF_EMBEDDINGS),
    *(f"features/student/{name}_teacher" for name in ("cka", "cosine")),
    *(
        f"{what}/{part}/from_{start}"
        for part in ("encoder", "projector")
        for start in ("init", "teacher")
        for what in ("distance", "angle")
    ),
)


OF_LAYERS = ("cosine", "effective_rank", "log_condition", "separability")
"""The statistics of a layer's outputs."""
EMBEDDING = "embedding"
"""The last layer; the others are numbers."""


def layer_metric(role: str, statistic: str, layer: str) -> str:
    """The name of a statistic of a layer, or of the input, which has none: ``layers/<role>/<statistic>_<layer>``."""
    return f"layers/{role}/{statistic}" + (f"_{layer}" if layer else "")


def layer_names(depth: int) -> list[str]:
    """The layers in order: ``01`` to ``depth``, and the embedding."""
    return [*(f"{number:02}" for number in range(1, depth + 1)), EMBEDDING]


def _of_layers(depths: Mapping[str, int]) -> tuple[str, ...]:
    places = [(role, layer) for role in depths for layer in ([""] if role == "input" else layer_names(depths[role]))]
    return tuple(layer_metric(role, name, layer) for role, layer in places for name in OF_LAYERS)


def training_metrics(
    probe: ProbeSpec, *, own: bool, learns_labels: bool, classifies: bool, depths: Mapping[str, int], alike: bool
) -> dict[str, When]:
    """Metric -> whether a training logs it at each probing (also at start and end) or epoch.

    ``own``: whether its own data set is probed; ``learns_labels``: whether it trains on labels; ``classifies``: whether
    its outputs are measured as classes; ``depths``: role that ``probe.layers`` measures -> number of its encoder's
    layers, of the input any; ``alike``: whether student and teacher are of one size.
    """
    training = ("accuracy",) if learns_labels else ("kl", "teacher_entropy", "student_entropy")
    names: dict[str, When] = {f"train/{name}": "epoch" for name in ("loss", "grad_norm", *training)}
    names |= {f"distance/from_{name}": "epoch" for name in ("init", "teacher")[: 1 + alike]}
    for data in (*([None] if own else []), *probe.also):
        for role in probe.roles:
            names |= {str(ProbeName(role, kind, data)): "probe" for kind in probe.kinds}
            names |= {extra_name(ProbeName(role, each.metric, data)): "probe" for each in probe.extra}
    if classifies:
        names |= {"test/loss": "probe", "test/accuracy": "probe"}
    described = _STATISTICS if probe.statistics else ()
    described += _of_layers(depths) if probe.layers else ()
    return names | dict.fromkeys((*described, *(probe.curvature.metrics if probe.curvature else ())), "probe")
