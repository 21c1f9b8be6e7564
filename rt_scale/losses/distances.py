"""The distillation objectives: distances between student and teacher outputs (paper, section 3 and appendix A)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from operator import eq, ne
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rt_scale.losses.kl import joined, kl_rows, row_dot, softmax_rows
from rt_scale.spec.errors import unknown_name
from rt_scale.spec.training import DISTANCES


class Distance(NamedTuple):
    """Loss and metrics of one batch: scalars on the device, means over batch and pairs of views.

    Attributes:
        loss: the only one with a gradient.
        kl: KL(teacher || student) of the softmaxes, in nats.
        teacher_entropy: of the softmax, in nats.
        student_entropy: of the softmax, in nats.
    """

    loss: Tensor
    kl: Tensor
    teacher_entropy: Tensor
    student_entropy: Tensor


Pair = tuple[int, int]
"""Positions of a teacher's and of a student's view."""
ONE_VIEW: tuple[Pair, ...] = ((0, 0),)
_PAIRINGS: dict[str, Callable[[int, int], bool]] = {"same": eq, "opposite": ne, "all": lambda i, j: True}


def view_pairs(pairing: str, teacher_views: int, student_views: int) -> tuple[Pair, ...]:
    """The (teacher, student) views to compare; the teacher's views are the first ones of the student.

    ``pairing`` is ``same`` (i, i), ``opposite`` (i, j) with i != j, as in DINO (Caron et al. 2021, algorithm 1), or
    ``all``; InputError for any other.
    """
    if pairing not in _PAIRINGS:
        raise unknown_name("pairing of views", pairing, _PAIRINGS)
    return tuple(pair for pair in product(range(teacher_views), range(student_views)) if _PAIRINGS[pairing](*pair))


def distance(name: str, student_logits: Tensor, teacher_logits: Tensor, pairs: Sequence[Pair] = ONE_VIEW) -> Distance:
    """The distance of that name, averaged over the batch and ``pairs``; only the student gets a gradient.

    Args:
        name: ``cross_entropy``, -sum_i softmax(teacher)_i log softmax(student)_i; ``kl``, that minus the teacher's
            entropy, as of ``losses.kl``; ``mse``, squared difference of logits, mean over outputs.
        student_logits: [S B, m] for S views of B images, floating point, ordered by view, then by image.
        teacher_logits: [T B, m], likewise, of the same dtype.
        pairs: the (teacher, student) views to compare.

    Raises:
        InputError: another name.
        ValueError: m differs, or the rows do not match the views in ``pairs``.
    """
    if name not in DISTANCES:
        raise unknown_name("objective of distillation", name, DISTANCES)
    teacher_logits = teacher_logits.detach()
    views = _Views(student_logits, teacher_logits, pairs)
    # The metrics need the cross entropy also for mse; first, so that its memory is free for mse.
    with torch.set_grad_enabled(torch.is_grad_enabled() and name != "mse"):
        probabilities, normaliser, rows = softmax_rows(teacher_logits)
        cross, kl, student_entropy = _SoftCrossEntropy.apply(
            student_logits, teacher_logits, probabilities, normaliser, views
        )
        del probabilities
    teacher_entropy = torch.dot(views.teachers, rows)
    loss = _SquaredError.apply(student_logits, teacher_logits, views) if name == "mse" else cross
    return Distance(kl if name == "kl" else loss, kl.detach(), teacher_entropy, student_entropy)


class _Views:
    """The rows to compare, and their weights in the mean over images and pairs of views.

    Attributes:
        batch: B, the number of images.
        partners: views of the teacher -> the student's views that are compared with just these.
        pairs: of a teacher's and a student's view.
        teachers: weight of each row [T B] of the teacher's views.
        students: likewise [S B]; 0 for a view without partners.
    """

    def __init__(self, student_logits: Tensor, teacher_logits: Tensor, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs
        of_teacher, of_student = (Counter(pair[side] for pair in pairs) for side in (0, 1))
        teachers, students = 1 + max(of_teacher), 1 + max(of_student)
        batch = self.batch = len(teacher_logits) // teachers
        if (len(teacher_logits), len(student_logits)) != (teachers * batch, students * batch) or (
            student_logits.shape[1:] != teacher_logits.shape[1:]
        ):
            raise ValueError(
                f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} must "
                f"have the same outputs, and the rows of {students} and {teachers} views of one batch"
            )

        def weights(times: Counter[int], views: int) -> Tensor:
            return joined(
                [student_logits.new_full((batch,), times[view] / len(pairs) / batch) for view in range(views)]
            )

        self.teachers = weights(of_teacher, teachers)
        self.students = self.teachers if of_student == of_teacher else weights(of_student, students)
        self.partners: dict[tuple[int, ...], list[int]] = {}
        for student in of_student:
            self.partners.setdefault(tuple(i for i, j in pairs if j == student), []).append(student)

    def kl(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The mean KL, from logits and log-normalisers of the rows of both, and the teacher's softmax."""
        ours, theirs = ([torch.split(each, self.batch) for each in side] for side in (student, teacher))
        rows = []
        for i, j in self.pairs:
            logits, normalisers = (each[j] for each in ours)
            taught, normalised, target = (each[i] for each in theirs)
            rows.append(kl_rows(logits, taught, target, normalisers - normalised))
        return joined(rows).mean()


def _mean_target(views: Sequence[Tensor]) -> Tensor:
    """The mean [B, m] of the teacher's views [B, m] that a student's view is compared with."""
    if len(views) == 1:
        return views[0]
    total = views[0] + views[1]
    for view in views[2:]:
        total += view
    return total.div_(len(views))


class _SoftCrossEntropy(torch.autograd.Function):
    """Cross entropy with soft targets, KL and the student's entropy.

    With m = 65,536 the step is bound by memory traffic. So it saves only the gradient, one rows x m tensor, for the
    backward pass, and the only large tensors it makes are the student's probabilities and, for a view with several
    partners, their mean [B, m]: cross entropy is linear in its targets, so one term with the mean replaces all pairs of
    a view. Log-probabilities are not needed: with n = log sum_j exp(z_j), cross entropy and entropy are n - <p, z>.
    """

    @staticmethod
    def forward(
        ctx: Any, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, normalisers: Tensor, views: _Views
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # no zeros for the output that is not the loss
        predictions, normaliser, entropies = softmax_rows(student_logits)
        student_entropy = torch.dot(views.students, entropies)
        logits, differences, taught = (
            torch.split(each, views.batch) for each in (student_logits, predictions, targets)
        )
        kl = views.kl((student_logits, normaliser), (teacher_logits, normalisers, targets))
        overlaps: dict[int, Tensor] = {}
        for teachers, students in views.partners.items():
            target = _mean_target([taught[teacher] for teacher in teachers])
            for student in students:
                overlaps[student] = row_dot(target, logits[student])
                # d loss / d logits = w (p - t), because the targets of a row sum to 1.
                differences[student].sub_(target)
            del target  # free its memory before the next one
        ctx.save_for_backward(predictions, views.students)
        ctx.mark_non_differentiable(student_entropy)
        parts = [overlaps[j] if j in overlaps else normaliser.new_zeros(views.batch) for j in range(len(logits))]
        return torch.dot(views.students, normaliser - joined(parts)), kl, student_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
        # Cross entropy and KL, of which one is the loss, have the same gradient.
        slope = grads[1] if grads[0] is None else grads[0]
        if slope is None:
            return None, None, None, None, None
        difference, weights = ctx.saved_tensors
        # In place: torch refuses a second backward pass, which would scale it twice.
        return difference.mul_((slope * weights)[:, None]), None, None, None, None


class _SquaredError(torch.autograd.Function):
    """Squared difference of logits, mean over outputs, that saves one rows x m tensor: the differences.

    For a view with several partners t_i, the mean of |z - t_i|^2 is |z - mean t|^2 plus the variance of the t_i, which
    has no gradient: one difference replaces all pairs of that view.
    """

    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, teacher_logits: Tensor, views: _Views) -> Tensor:
        differences = student_logits.clone()
        parts, taught = torch.split(differences, views.batch), torch.split(teacher_logits, views.batch)
        spreads: dict[int, Tensor] = {}
        for teachers, students in views.partners.items():
            partners = [taught[teacher] for teacher in teachers]
            target = _mean_target(partners)
            if len(partners) > 1:
                squares = torch.stack([_row_squares(partner) for partner in partners])
                spreads |= dict.fromkeys(students, squares.mean(dim=0) - _row_squares(target))
            for student in students:
                parts[student].sub_(target)
        ctx.save_for_backward(differences, views.students)
        squares = _row_squares(differences)
        for student, spread in spreads.items():
            torch.split(squares, views.batch)[student].add_(spread)
        return torch.dot(views.students, squares) / student_logits.shape[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        differences, weights = ctx.saved_tensors
        return differences.mul_((grads[0] * 2 / differences.shape[1] * weights)[:, None]), None, None


def _row_squares(a: Tensor) -> Tensor:
    """Squared l2 norms [B] of rows [B, m]."""
    norms: Tensor = torch.linalg.vector_norm(a, dim=1)
    return norms.square()
