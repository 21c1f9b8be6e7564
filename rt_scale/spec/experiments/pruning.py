"""Iterative magnitude pruning (Frankle and Carbin 2019) of a supervised run: rounds, each from the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from rt_scale.spec.networks import part_flags
from rt_scale.spec.part import Part
from rt_scale.spec.schedule import Moment, parse

if TYPE_CHECKING:
    from rt_scale.spec.experiments.training import TrainingSpec

MOST_ROUNDS = 300
"""Most rounds: specs of long chains are followed recursively."""


class PruneSpec(Part):
    """A round of pruning; the rounds before are runs of their own, which are executed first.

    Round r prunes the weights of least magnitude at the end of round r - 1, rewinds the others, and trains again.
    """

    round: int = Field(ge=0, le=MOST_ROUNDS)
    """Number of prunings; 0 is the run without prune, the same one for every rewind."""
    fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the remaining weights that a round prunes, rounded up to a whole weight; of equal magnitudes those go
    first that come first in the network."""
    rewind: Moment = "0ep"
    """Where weights, norm statistics and optimiser go back to: 0ep (the run's start) or a moment of the unpruned run,
    e.g. 2ep or 500it, whose schedules and order of images go on from there."""
    scope: Literal["global", "layer"] = "global"
    """Whether the fraction is of all weights together (global) or of every tensor's own (layer)."""
    parameters: Literal["weights", "all"] = "weights"
    """What is pruned: weights of convolutions and linear layers, the output layer's too, or all parameters, also biases
    and scales and shifts of norms (as in figure 8)."""


class Pruned(NamedTuple):
    """A round's part of its spec, and the runs that it is made from.

    Attributes:
        before: the round before, whose end its mask comes from.
        rewound: the unpruned run that ends where it rewinds to; None for its own start.
    """

    how: PruneSpec
    before: TrainingSpec
    rewound: TrainingSpec | None


def check_prune(spec: TrainingSpec, how: PruneSpec) -> None:
    """Raise ValueError for a run that cannot be pruned so, or of which it is unclear how."""
    start, flags = spec.student.start_from, part_flags(spec.projector.parts)
    if start is not None and start.take == "state":
        raise ValueError("prune starts at a run's start: with student.start_from take student, and give prune.rewind")
    if flags["weight_norm_1"] or flags["weight_norm_2"]:
        raise ValueError(
            "prune zeroes weights, and a weight norm divides by the length of a weight vector, which may become 0: "
            "leave wn out of projector.parts; a linear classifier is {hidden: [], parts: -/lb/-/-/-/-}"
        )
    if how.rewind == "0ep":
        return
    train, (number, unit) = spec.train, (int(how.rewind[:-2]), how.rewind[-2:])
    end = train.stop or f"{train.epochs}ep"
    if end.endswith(unit) and number >= int(end[:-2]):
        raise ValueError(f"prune.rewind is {how.rewind}, at or beyond the end of the run, {end}: rewind to before it")
    optimizer = train.optimizer
    for name, given in (("lr", optimizer.lr), ("weight_decay", optimizer.weight_decay)):
        if (schedule := parse(given)).relative:
            raise ValueError(
                f"train.optimizer.{name} is {schedule}, whose length follows from the run's, and with prune.rewind "
                "that could be the whole run or what is left of it: give every piece a length in epochs or steps, such "
                f"as {train.epochs}ep, counted from the start of the unpruned run"
            )
