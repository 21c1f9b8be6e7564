"""The distillation objectives: distances between student and teacher outputs (paper, section 3 and appendix A)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rt_scale.spec.errors import unknown_name


class Distance(NamedTuple):
    """The objective of one batch and what belongs to it, each a scalar tensor on the device.

    All are averaged over the batch and over the pairs of views; entropies and divergence are in nats.

    Attributes:
        loss: what is minimised; the only one with a gradient.
        kl: KL(teacher || student) of the softmaxes, summed over outputs.
        teacher_entropy: of the teacher's distributions.
        student_entropy: of the student's distributions.
    """

    loss: Tensor
    kl: Tensor
    teacher_entropy: Tensor
    student_entropy: Tensor


Pair = tuple[int, int]
"""Positions of a teacher's and of a student's view."""


def view_pairs(pairing: str, teacher_views: int, student_views: int) -> tuple[Pair, ...]:
    """The (teacher, student) views that are compared; the teacher's views are the student's first ones.

    Args:
        pairing: ``same`` (i, i), ``opposite`` (i, j) with i != j, as in DINO (Caron et al. 2021, algorithm 1),
            or ``all``.
        teacher_views: T, the global views.
        student_views: S >= T, the global and the local ones.

    Raises:
        InputError: another pairing.
    """
    every = [(i, j) for i in range(teacher_views) for j in range(student_views)]
    match pairing:
        case "all":
            return tuple(every)
        case "same":
            return tuple((i, j) for i, j in every if i == j)
        case "opposite":
            return tuple((i, j) for i, j in every if i != j)
    raise unknown_name("pairing of views", pairing, ("same", "opposite", "all"))


ONE_VIEW: tuple[Pair, ...] = ((0, 0),)
DISTANCES = ("cross_entropy", "kl", "mse")
"""By name."""


def distance(name: str, student_logits: Tensor, teacher_logits: Tensor, pairs: Sequence[Pair] = ONE_VIEW) -> Distance:
    """The distance of that name, averaged over the batch and ``pairs``; its gradient reaches the student alone.

    ``cross_entropy``: -sum_i softmax(teacher)_i log softmax(student)_i; ``kl``: the same less the teacher's
    entropy; ``mse``: squared difference of logits, mean over outputs.

    Args:
        name: cross_entropy, kl or mse.
        student_logits: [S B, m], floating point, all images of the first view, then of the next.
        teacher_logits: [T B, m], of the same dtype, likewise.
        pairs: the (teacher, student) views that are compared.

    Raises:
        InputError: another name.
        ValueError: where outputs differ in number, or rows do not make up the views that ``pairs`` names.
    """
    if name not in DISTANCES:
        raise unknown_name("objective of distillation", name, DISTANCES)
    teacher_logits = teacher_logits.detach()
    batch = _batch(student_logits, teacher_logits, pairs)
    teachers, students = _weights(pairs, batch, student_logits)
    # Minimised or not, it is what the other metrics are made of; first, so that its memory is free again for mse.
    with torch.set_grad_enabled(torch.is_grad_enabled() and name != "mse"):
        cross, *entropies = _cross_entropy(student_logits, teacher_logits, pairs, students, teachers)
    loss = _SquaredError.apply(student_logits, teacher_logits, pairs, students) if name == "mse" else cross
    kl = cross - entropies[0]
    return Distance(kl if name == "kl" else loss, kl.detach(), *entropies)


def _weights(pairs: Sequence[Pair], batch: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """How much each row [V B] of the teacher's and of the student's views counts in a mean over pairs."""
    teachers, students = (_times(pairs, side) for side in (0, 1))

    def weights(times: Sequence[int]) -> Tensor:
        return _joined([like.new_full((batch,), count / len(pairs) / batch) for count in times])

    of_teachers = weights(teachers)
    return of_teachers, of_teachers if students == teachers else weights(students)


def _times(pairs: Sequence[Pair], side: int) -> list[int]:
    """In how many pairs each of the teacher's (side 0) or the student's (1) views is."""
    times = [0] * (1 + max(pair[side] for pair in pairs))
    for pair in pairs:
        times[pair[side]] += 1
    return times


def _joined(parts: list[Tensor]) -> Tensor:
    """The vectors one after the other; a single one as it is, which launches nothing."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _batch(student_logits: Tensor, teacher_logits: Tensor, pairs: Sequence[Pair]) -> int:
    teachers, students = (1 + max(pair[side] for pair in pairs) for side in (0, 1))
    batch = len(teacher_logits) // teachers
    if (len(teacher_logits), len(student_logits)) != (teachers * batch, students * batch) or (
        student_logits.shape[1:] != teacher_logits.shape[1:]
    ):
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} must have "
            f"the same outputs, and the rows of {students} and {teachers} views of one batch"
        )
    return batch


def _cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, pairs: Sequence[Pair], students: Tensor, teachers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy with a gradient, the teacher's and the student's entropy."""
    probabilities = torch.softmax(teacher_logits, dim=1)
    rows = log_normaliser(teacher_logits, probabilities) - _row_dot(probabilities, teacher_logits)
    loss, student_entropy = _SoftCrossEntropy.apply(student_logits, probabilities, pairs, students)
    return loss, torch.dot(teachers, rows), student_entropy


def _partners(pairs: Sequence[Pair]) -> dict[tuple[int, ...], list[int]]:
    """The student's views by the teacher's views that they are compared with: most have the same."""
    teachers: dict[int, tuple[int, ...]] = {}
    for i, j in pairs:
        teachers[j] = (*teachers.get(j, ()), i)
    students: dict[tuple[int, ...], list[int]] = {}
    for j, views in teachers.items():
        students.setdefault(views, []).append(j)
    return students


def _mean_target(views: Sequence[Tensor]) -> Tensor:
    """The mean [B, m] of the teacher's distributions or logits [B, m] that a student's view is compared with."""
    if len(views) == 1:
        return views[0]
    total = views[0] + views[1]
    for view in views[2:]:
        total += view
    return total.div_(len(views))


class _SoftCrossEntropy(torch.autograd.Function):
    """Cross entropy with soft targets that keeps one rows x m tensor for the backward pass: its gradient.

    With m = 65,536 the step is bound by memory traffic, so beside what it is given it makes the student's
    probabilities, a mean target [B, m] where a view is compared with several, and else a row's worth: with
    n = log sum_j exp(z_j), cross entropy and entropy are n - <p, z>, and no log-probabilities are needed.
    Cross entropy is linear in its targets: one term with their mean stands for all pairs of a view.
    """

    @staticmethod
    def forward(
        ctx: Any, student_logits: Tensor, targets: Tensor, pairs: Sequence[Pair], weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # no zeros for the entropy, which has none
        predictions = torch.softmax(student_logits, dim=1)
        normaliser = log_normaliser(student_logits, predictions)
        student_entropy = torch.dot(weights, normaliser - _row_dot(predictions, student_logits))
        batch = len(targets) // (1 + max(i for i, _ in pairs))
        logits, differences, views = (torch.split(each, batch) for each in (student_logits, predictions, targets))
        overlaps = {}
        for teachers, students in _partners(pairs).items():
            target = _mean_target([views[teacher] for teacher in teachers])
            for student in students:
                overlaps[student] = _row_dot(target, logits[student])
                # d loss / d logits = w (p - t), because the targets of a row sum to 1.
                differences[student].sub_(target)
            del target  # before the next one is made
        ctx.save_for_backward(predictions, weights)
        ctx.mark_non_differentiable(student_entropy)
        # A view without a partner has weight 0.
        parts = [overlaps[view] if view in overlaps else normaliser.new_zeros(batch) for view in range(len(logits))]
        return torch.dot(weights, normaliser - _joined(parts)), student_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if (slope := grads[0]) is None:
            return None, None, None, None
        difference, weights = ctx.saved_tensors
        # In place: torch refuses a second backward pass, which would find it scaled already.
        return difference.mul_((slope * weights)[:, None]), None, None, None


class _SquaredError(torch.autograd.Function):
    """Squared difference of logits, mean over outputs, that keeps one rows x m tensor: the differences.

    Of a view with several partners t_i the mean of |z - t_i|^2 is |z - mean t|^2 and the spread of the t_i, which
    has no gradient: one difference stands for all pairs of that view.
    """

    @staticmethod
    def forward(
        ctx: Any, student_logits: Tensor, teacher_logits: Tensor, pairs: Sequence[Pair], weights: Tensor
    ) -> Tensor:
        differences = student_logits.clone()
        batch = len(teacher_logits) // (1 + max(i for i, _ in pairs))
        parts, views = torch.split(differences, batch), torch.split(teacher_logits, batch)
        spreads: dict[int, Tensor] = {}
        for teachers, students in _partners(pairs).items():
            partners = [views[teacher] for teacher in teachers]
            target = _mean_target(partners)
            if len(partners) > 1:
                squares = torch.stack([_row_squares(partner) for partner in partners])
                spreads |= dict.fromkeys(students, squares.mean(dim=0) - _row_squares(target))
            for student in students:
                parts[student].sub_(target)
        ctx.save_for_backward(differences, weights)
        squares = _row_squares(differences)
        for student, spread in spreads.items():
            squares[student * batch : (student + 1) * batch].add_(spread)
        return torch.dot(weights, squares) / student_logits.shape[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        differences, weights = ctx.saved_tensors
        # In place, as above.
        return differences.mul_((grads[0] * 2 / differences.shape[1] * weights)[:, None]), None, None, None


def log_normaliser(logits: Tensor, probabilities: Tensor) -> Tensor:
    """log sum_j exp(z_j) [B] of logits [B, m], read off the largest logit and its probability.

    Exact where it counts: the largest probability is at least 1 / m. torch.logsumexp would pass over
    all of the logits again, several times.
    """
    return logits.amax(dim=1) - probabilities.amax(dim=1).log()


def _row_squares(a: Tensor) -> Tensor:
    """Squared l2 norms [B] of rows [B, m]."""
    norms: Tensor = torch.linalg.vector_norm(a, dim=1)
    return norms.square()


def _row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows of two [B, m] tensors, without a third."""
    if a.is_cuda and a.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        # tf32 is for networks: the difference of two sums of products would be its rounding alone.
        return torch.cat([(x * y).sum(dim=1) for x, y in zip(torch.split(a, 32), torch.split(b, 32), strict=True)])
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).flatten()
