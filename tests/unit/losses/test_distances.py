"""The objectives' contract: pairs of views, errors, gradients' ways, memory. Their values: tests/reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rt_scale.losses import kl
from rt_scale.losses.distances import ONE_VIEW, Distance, Pair, distance, view_pairs

NAMES = ("cross_entropy", "kl", "mse")


def logits(rows: int = 5, outputs: int = 11, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, outputs, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("pairing", "teachers", "students", "expected"),
    [
        ("same", 1, 1, [(0, 0)]),
        ("all", 1, 1, [(0, 0)]),
        ("same", 2, 2, [(0, 0), (1, 1)]),
        ("same", 2, 3, [(0, 0), (1, 1)]),
        ("opposite", 2, 2, [(0, 1), (1, 0)]),
        ("opposite", 1, 3, [(0, 1), (0, 2)]),
        ("opposite", 2, 3, [(0, 1), (0, 2), (1, 0), (1, 2)]),
        ("all", 2, 3, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
    ],
)
def test_pairs_of_views(pairing: str, teachers: int, students: int, expected: list[Pair]) -> None:
    assert list(view_pairs(pairing, teachers, students)) == expected


def test_pairs_of_dino() -> None:
    """Two global and ten local views: 22 terms, none of a view with itself (Caron et al. 2021)."""
    pairs = view_pairs("opposite", 2, 12)
    assert len(pairs) == len(set(pairs)) == 22
    assert {i for i, _ in pairs} == {0, 1}
    assert {j for _, j in pairs} == set(range(12))


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        ((5, 11), (5, 12), ONE_VIEW),
        ((5, 11), (4, 11), ONE_VIEW),
        ((10, 11), (5, 11), ONE_VIEW),
        ((5, 11), (10, 11), ONE_VIEW),
        ((6, 11), (5, 11), view_pairs("same", 2, 2)),
        ((9, 11), (6, 11), view_pairs("opposite", 2, 2)),
        ((6, 11), (6, 11), view_pairs("opposite", 2, 3)),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_not_the_views_are_refused(
    name: str, ours: tuple[int, int], theirs: tuple[int, int], pairs: tuple[Pair, ...]
) -> None:
    with pytest.raises(ValueError, match=r"same outputs, and the rows of \d+ and \d+ views of one batch"):
        distance(name, torch.zeros(ours), torch.zeros(theirs), pairs)


def test_names_are_different_objectives() -> None:
    losses = {float(distance(name, logits(seed=1), logits(seed=2)).loss) for name in NAMES}
    assert len(losses) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_mean_over_pairs_is_the_mean_of_their_distances(name: str) -> None:
    """Views that are in more pairs count more; a view in none does not count."""
    students, teachers = (
        logits(12, seed=1, dtype=torch.float64).requires_grad_(),
        logits(6, seed=2, dtype=torch.float64),
    )
    pairs = [(0, 1), (1, 1), (1, 3)]
    measured = distance(name, students, teachers, pairs)
    s, t = students.split(3), teachers.split(3)
    each = [distance(name, s[j], t[i]) for i, j in pairs]
    mean = Distance(*(torch.stack(values).mean() for values in zip(*each, strict=True)))
    torch.testing.assert_close(tuple(measured), tuple(mean), rtol=1e-13, atol=1e-13)
    (ours,), (theirs,) = (torch.autograd.grad(loss, students) for loss in (measured.loss, mean.loss))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert [bool(view.any()) for view in ours.split(3)] == [False, True, False, True]


@pytest.mark.parametrize("outputs", [1, 2, 1000])
def test_where_student_and_teacher_agree_kl_and_gradient_are_0_to_the_bit(outputs: int) -> None:
    """At alpha = 0 a student must not find a gradient that is nobody's."""
    teacher = logits(outputs=outputs)
    for name in NAMES:
        student = teacher.clone().requires_grad_()
        measured = distance(name, student, teacher)
        assert torch.equal(measured.teacher_entropy, measured.student_entropy)
        assert float(measured.kl) == 0.0
        expected = measured.teacher_entropy if name == "cross_entropy" else measured.kl
        torch.testing.assert_close(measured.loss.detach(), expected, rtol=1e-6, atol=0)
        (gradient,) = torch.autograd.grad(measured.loss, student)
        assert not gradient.any()


VIEWS = [(ONE_VIEW, 1, 1), (view_pairs("opposite", 2, 3), 2, 3)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("pairs", "teachers", "students"), VIEWS)
def test_arguments_are_not_changed(name: str, pairs: tuple[Pair, ...], teachers: int, students: int) -> None:
    student, teacher = logits(5 * students, seed=1).requires_grad_(), logits(5 * teachers, seed=2)
    distance(name, student, teacher, pairs).loss.backward()
    assert torch.equal(student, logits(5 * students, seed=1))
    assert torch.equal(teacher, logits(5 * teachers, seed=2))


@pytest.mark.parametrize("name", NAMES)
def test_only_the_loss_has_a_gradient_and_only_to_the_student(name: str) -> None:
    student, teacher = logits(seed=1).requires_grad_(), logits(seed=2).requires_grad_()
    measured = distance(name, student, teacher)
    assert [value.requires_grad for value in measured] == [True, False, False, False]
    assert all(value.shape == () and value.dtype == torch.float32 for value in measured)
    measured.loss.backward()
    assert student.grad is not None
    assert teacher.grad is None
    with torch.no_grad():
        assert not distance(name, student, teacher).loss.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_scales_with_the_loss(name: str) -> None:
    student, teacher = logits(seed=1).requires_grad_(), logits(seed=2)
    (once,) = torch.autograd.grad(distance(name, student, teacher).loss, student)
    (twice,) = torch.autograd.grad(2 * distance(name, student, teacher).loss, student)
    assert torch.equal(twice, 2 * once)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_backward_pass_is_refused_not_wrong(name: str) -> None:
    student = logits(seed=1).requires_grad_()
    loss = distance(name, student, logits(seed=2)).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("pairs", "teachers", "students"), VIEWS)
def test_one_tensor_of_the_logits_size_is_kept_for_the_backward_pass(
    name: str, pairs: tuple[Pair, ...], teachers: int, students: int
) -> None:
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    student, teacher = logits(5 * students, 1000, seed=1).requires_grad_(), logits(5 * teachers, 1000, seed=2)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        distance(name, student, teacher, pairs)
    assert [tensor.shape for tensor in kept if tensor.numel() >= 1000] == [student.shape]


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside held at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[StorageWeakRef, int] = {}
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {StorageWeakRef(each.untyped_storage()) for each in tree_leaves(args) if isinstance(each, Tensor)}
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and StorageWeakRef(each.untyped_storage()) not in given:
                self.live[StorageWeakRef(each.untyped_storage())] = each.untyped_storage().nbytes()
        self.live = {storage: size for storage, size in self.live.items() if not storage.expired()}
        self.bytes = max(self.bytes, sum(self.live.values()))
        return result


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("pairing", "teachers", "students"), [("same", 1, 1), ("opposite", 3, 5), ("all", 3, 4)])
def test_memory_is_that_of_the_predictions_and_one_view_more(
    name: str, pairing: str, teachers: int, students: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At m = 65,536 and 256 images a view's logits are 67 MB, of which multi-crop has 14 (2 taught, 12 learned)."""
    view = 4 * 8 * 4096
    student, teacher = logits(8 * students, 4096, seed=1).requires_grad_(), logits(8 * teachers, 4096, seed=2)
    monkeypatch.setattr(kl, "BLOCK", 1)  # a row at a time, of 8
    with Peak() as peak:
        distance(name, student, teacher, view_pairs(pairing, teachers, students)).loss.backward()
    mean = int(len(view_pairs(pairing, teachers, students)) > 1)
    assert (teachers + students) * view <= peak.bytes < (teachers + students + mean + 3.1 / 8) * view


@pytest.mark.parametrize("name", NAMES)
def test_the_same_twice_to_the_last_bit(name: str) -> None:
    def once() -> tuple[Tensor, ...]:
        student = logits(64, 2048, seed=1).requires_grad_()
        measured = distance(name, student, logits(64, 2048, seed=2))
        return (*measured, *torch.autograd.grad(measured.loss, student))

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))
