"""Which metrics a run logs, and when: known from its spec, before it starts."""

from __future__ import annotations

from typing import Literal

from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.metric_names import ProbeName
from rt_scale.spec.run import RunSpec

When = Literal["probe", "epoch"]


def logged_metrics(spec: RunSpec) -> dict[str, When]:
    """Name -> whether it is logged at each probing (start and end included) or after each epoch.

    Args:
        spec: of a run on a set of images with labels, or on noise; a set without labels has no probes of its own.
    """
    training = ("accuracy",) if spec.kind == "supervise" else ("kl", "teacher_entropy", "student_entropy")
    names: dict[str, When] = {f"train/{name}": "epoch" for name in ("loss", "grad_norm", *training)}
    names |= {f"distance/from_{name}": "epoch" for name in ("init", "teacher")}
    own = spec.probe.own and spec.data.name != GAUSSIAN
    for data in (*([None] if own else []), *spec.probe.also):
        for role in ("student", "teacher", "input"):
            names |= {str(ProbeName(role, kind, data)): "probe" for kind in spec.probe.kinds}
    if spec.kind == "supervise":
        names |= {"test/loss": "probe", "test/accuracy": "probe"}
    return names | (_statistics() if spec.probe.statistics else {})


def _statistics() -> dict[str, When]:
    names: dict[str, When] = {}
    for role in ("student", "teacher"):
        of_one = ("effective_rank", "participation_ratio", "dead_units", "std")
        names |= {f"features/{role}/{name}": "probe" for name in of_one}
    names |= {f"features/student/{name}_teacher": "probe" for name in ("cka", "cosine")}
    for part in ("encoder", "projector"):
        for start in ("init", "teacher"):
            names |= {f"{what}/{part}/from_{start}": "probe" for what in ("distance", "angle")}
    return names
