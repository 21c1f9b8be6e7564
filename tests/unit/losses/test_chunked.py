"""Wide outputs: what tiles keep in memory, and exactness. Their values: tests/reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rt_scale.losses.chunked import NARROWEST, TILE, TILE_A_THREAD, by_tiles, tile_columns, wide_distance
from rt_scale.models.projector import Outputs, unit_rows

CPU = torch.device("cpu")


def sides(batch: int, outputs: int, width: int = 4) -> tuple[Outputs, Outputs]:
    generator = torch.Generator().manual_seed(0)
    f, w, g, v = (torch.randn(rows, width, generator=generator) for rows in (batch, outputs, batch, outputs))
    return Outputs(f.requires_grad_(), w.requires_grad_(), unit=True), Outputs(g, v)


def gradients(student: Outputs, teacher: Outputs, columns: int) -> tuple[Tensor, ...]:
    loss = wide_distance("cross_entropy", student, teacher, columns=columns).loss
    return torch.autograd.grad(loss, (student.features, student.weight))


class Made(TorchDispatchMode):
    """The most bytes that tensors made inside hold at any time, and the sizes of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[StorageWeakRef, int] = {}
        self.peak, self.sizes = 0, list[int]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            StorageWeakRef(each.untyped_storage()) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)
        }
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and StorageWeakRef(each.untyped_storage()) not in given:
                self.live[StorageWeakRef(each.untyped_storage())] = each.untyped_storage().nbytes()
                self.sizes.append(each.untyped_storage().nbytes())
        self.live = {storage: size for storage, size in self.live.items() if not storage.expired()}
        self.peak = max(self.peak, sum(self.live.values()))
        return result


def test_two_tensors_of_the_logits_size_and_never_more() -> None:
    batch, outputs, columns = 64, 16384, 512
    student, teacher = sides(batch, outputs, width=1)
    with Made() as made:
        gradients(student, teacher, columns)
    logits = 4 * batch * outputs
    assert [size for size in made.sizes if size >= logits] == [logits, logits]
    assert 2 * logits < made.peak < 2.25 * logits


@pytest.mark.parametrize(("product", "extra"), [(torch.float32, 0), (torch.bfloat16, 0.5)])
def test_the_forward_pass_takes_its_memory_once_however_many_tiles(product: torch.dtype, extra: float) -> None:
    batch, outputs, columns = 64, 16384, 512
    student, teacher = sides(batch, outputs, width=1)
    with Made() as made, torch.no_grad():
        by_tiles(student, teacher, product, columns)
    tile = 4 * batch * columns
    assert sorted(size for size in made.sizes if size >= tile) == [tile, tile, tile, 32 * tile, 32 * tile]
    # In a shorter dtype products are made beside the logits.
    assert sum(size for size in made.sizes if tile / 2 <= size < tile) == 64 * extra * tile


def test_tiles_are_kept_for_the_backward_pass_and_no_logits() -> None:
    student, teacher = sides(8, 1000)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        wide_distance("kl", student, teacher, columns=256)
    sizes = sorted(each.numel() for each in kept if each.shape[0] == 8 and each.shape[1] > 4)
    assert sizes == sorted(2 * [8 * columns for columns in (256, 256, 256, 232)])


@pytest.mark.parametrize("columns", [1, 30, 64, 200])
def test_where_student_and_teacher_agree_nothing_is_left_to_the_bit(columns: int) -> None:
    """At alpha = 0 a student must not find a gradient that is nobody's; its teacher was normalised once, as a whole."""
    student, _ = sides(5, 100)
    features, weight, *_ = student
    teacher = Outputs(features.detach(), unit_rows(weight.detach()))
    found = wide_distance("cross_entropy", student, teacher, columns=columns)
    assert torch.equal(found.loss.detach(), found.teacher_entropy)
    assert torch.equal(found.student_entropy, found.teacher_entropy)
    assert float(found.kl) == 0.0
    assert not any(each.any() for each in torch.autograd.grad(found.loss, (features, weight)))


def test_the_same_twice_to_the_last_bit_and_twice_the_loss_twice_the_gradient() -> None:
    student, teacher = sides(64, 1000)
    first, second = gradients(student, teacher, 300), gradients(student, teacher, 300)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    loss = wide_distance("kl", student, teacher, columns=300).loss
    twice = torch.autograd.grad(2 * loss, student[:2])
    assert all(torch.equal(2 * a, b) for a, b in zip(first, twice, strict=True))


def test_only_the_loss_has_a_gradient_and_arguments_stay() -> None:
    student, teacher = sides(3, 20)
    teacher.features.requires_grad_()
    found = wide_distance("cross_entropy", student, teacher)
    assert [each.requires_grad for each in found] == [True, False, False, False]
    found.loss.backward()
    assert teacher.features.grad is None
    again = sides(3, 20)
    assert all(torch.equal(a, b) for a, b in zip(student[:2], again[0][:2], strict=True))
    with torch.no_grad():
        assert not wide_distance("kl", student, teacher).loss.requires_grad


@pytest.mark.parametrize("other", [sides(4, 20), sides(3, 21)])
def test_other_rows_or_outputs_are_refused(other: tuple[Outputs, Outputs]) -> None:
    with pytest.raises(ValueError, match="must have the same rows and outputs"):
        wide_distance("kl", sides(3, 20)[0], other[1])


def test_a_tile_has_its_elements_and_is_not_too_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert tile_columns(256, CPU) == TILE // 256
    assert tile_columns(1 << 20, CPU) == NARROWEST
    assert tile_columns(255, torch.device("cuda")) % 64 == 0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert tile_columns(256, CPU) == 64 * TILE_A_THREAD // 256
