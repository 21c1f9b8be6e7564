"""StartFrom: weights of another run as a beginning, so that runs form a graph (paper, appendix D.1: restarting)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rt_scale.spec.part import Part

if TYPE_CHECKING:
    from rt_scale.spec.run import RunSpec


class StartFrom(Part):
    """Weights that another run ends or begins with. That run is a spec itself: it is computed first, once."""

    run: RunSpec
    """The other run, whole; in a file also `same` or `{same_but: {...}}`: this run without any start_from, and
    with those fields changed."""
    take: Literal["student", "teacher", "init"] = "student"
    """Which of its networks: student (trained), teacher (at the end), init (the student at its start)."""
    part: Literal["network", "encoder"] = "network"
    """network (encoder and projector), or encoder alone under a freshly drawn projector."""
