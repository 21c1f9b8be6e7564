"""Objectives of users: a function of the logits of one view of student and teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from rt_scale.losses.distances import Distance, Pair, distance
from rt_scale.plugins import check_arguments, load
from rt_scale.spec.errors import InputError, cut, shown
from rt_scale.spec.training import ObjectiveSpec

OwnObjective = Callable[[Tensor, Tensor], Tensor]
"""Student logits [B, m] and teacher logits [B, m] to the mean over images, a scalar."""


def load_objective(spec: ObjectiveSpec) -> OwnObjective:
    """The plugin's function with its arguments, tried on two images' logits; InputError if it gives no mean."""
    assert spec.plugin is not None
    function, what = load(spec.plugin, spec.source), f"The objective '{spec.plugin}'"
    check_arguments(what, function, spec.arguments, (), positional=2)
    own = partial(function, **spec.arguments)
    student, teacher = torch.eye(2, 3, requires_grad=True), torch.eye(2, 3)
    try:
        loss = own(student, teacher)
    except Exception as error:  # of a user's code
        raise InputError(f"{what} cannot be used: {type(error).__name__}: {cut(str(error), 300)}.") from error
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        given = f"{list(loss.shape)}" if isinstance(loss, Tensor) else shown(loss)
        raise InputError(
            f"{what} gives {given} for logits [2, 3]: it must give a scalar tensor, the mean over images, with a "
            "gradient for the student's logits."
        )
    return own


def own_distance(own: OwnObjective, student_logits: Tensor, teacher_logits: Tensor, pairs: Sequence[Pair]) -> Distance:
    """The mean of the objective over pairs of views, with the metrics of every distance; the rest as ``distance``."""
    with torch.no_grad():
        known = distance("cross_entropy", student_logits, teacher_logits, pairs)
    teachers, students = (
        each.chunk(1 + max(pair[side] for pair in pairs)) for side, each in enumerate((teacher_logits, student_logits))
    )
    losses = [own(students[student], teachers[teacher]) for teacher, student in pairs]
    return known._replace(loss=torch.stack(losses).mean())
