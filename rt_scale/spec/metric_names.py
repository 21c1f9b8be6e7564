"""Names of measured values: written by runs, read by reports and boards.

``probe/<role>/<probe>`` on the data set that the run distils on, ``probe@<set>/<role>/<probe>`` on another
(TensorBoard groups by what stands before the first slash); roles are input, teacher and student.
"""

from __future__ import annotations

from typing import NamedTuple


class ProbeName(NamedTuple):
    """What an accuracy is of.

    Attributes:
        role: ``input``, ``teacher`` or ``student``.
        probe: ``linear``, ``knn_standardized``, ...
        data: name of the data set; None for the one that the run distils on.
    """

    role: str
    probe: str
    data: str | None = None

    def __str__(self) -> str:
        return f"{probe_group(self.data)}/{self.role}/{self.probe}"


def probe_group(data: str | None) -> str:
    """What stands before the first slash: ``probe``, or ``probe@<data>`` for another data set."""
    return "probe" if data is None else f"probe@{data}"


def parse_probe_name(name: str) -> ProbeName | None:
    """What the metric ``name`` is the accuracy of; None for any other metric."""
    group, *rest = name.split("/")
    kind, at, data = group.partition("@")
    if kind != "probe" or len(rest) != 2 or bool(at) != bool(data):
        return None
    return ProbeName(rest[0], rest[1], data or None)


def is_constant(name: str, *, frozen_teacher: bool) -> bool:
    """Whether the metric is measured once a run and repeated: the input's, and the teacher's where it is frozen."""
    parsed = parse_probe_name(name)
    roles = ("input", "teacher") if frozen_teacher else ("input",)
    return (frozen_teacher and name.startswith("features/teacher/")) or (parsed is not None and parsed.role in roles)
