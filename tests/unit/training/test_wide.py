"""Wide outputs: what tiles keep in memory, exactness, the kernel and its choice. Their values: tests/reference."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rt_scale.models.projector import Outputs, unit_rows
from rt_scale.training import wide_choice
from rt_scale.training.wide import NARROWEST, TILE, TILE_A_THREAD, Side, by_tiles, tile_columns, wide_distance

CPU = torch.device("cpu")


def sides(batch: int, outputs: int, width: int = 4) -> tuple[Side, Side]:
    generator = torch.Generator().manual_seed(0)
    f, w, g, v = (torch.randn(rows, width, generator=generator) for rows in (batch, outputs, batch, outputs))
    return Side(Outputs(f.requires_grad_(), w.requires_grad_(), unit=True)), Side(Outputs(g, v))


def gradients(student: Side, teacher: Side, columns: int) -> tuple[Tensor, ...]:
    loss = wide_distance("cross_entropy", student, teacher, compare=functools.partial(by_tiles, columns=columns)).loss
    return torch.autograd.grad(loss, (student.outputs.features, student.outputs.weight))


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
        by_tiles(student, teacher, product, columns=columns)
    tile = 4 * batch * columns
    assert sorted(size for size in made.sizes if size >= tile) == [tile, tile, 32 * tile, 32 * tile]
    # In a shorter dtype products are made beside the logits.
    assert sum(size for size in made.sizes if tile / 2 <= size < tile) == 64 * extra * tile


def test_tiles_are_kept_for_the_backward_pass_and_no_logits() -> None:
    student, teacher = sides(8, 1000)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        wide_distance("kl", student, teacher, compare=functools.partial(by_tiles, columns=256))
    sizes = sorted(each.numel() for each in kept if each.shape[0] == 8 and each.shape[1] > 4)
    assert sizes == sorted(2 * [8 * columns for columns in (256, 256, 256, 232)])


@pytest.mark.parametrize("columns", [1, 30, 64, 200])
def test_where_student_and_teacher_agree_nothing_is_left_to_the_bit(columns: int) -> None:
    """At alpha = 0 a student must not find a gradient that is nobody's; its teacher was normalised once, as a whole."""
    student, _ = sides(5, 100)
    features, weight, _ = student.outputs
    teacher = Side(Outputs(features.detach(), unit_rows(weight.detach())))
    found = wide_distance("cross_entropy", student, teacher, compare=functools.partial(by_tiles, columns=columns))
    assert torch.equal(found.loss.detach(), found.teacher_entropy)
    assert torch.equal(found.student_entropy, found.teacher_entropy)
    assert float(found.kl) == 0.0
    assert not any(each.any() for each in torch.autograd.grad(found.loss, (features, weight)))


def test_the_same_twice_to_the_last_bit_and_twice_the_loss_twice_the_gradient() -> None:
    student, teacher = sides(64, 1000)
    first, second = gradients(student, teacher, 300), gradients(student, teacher, 300)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    loss = wide_distance("kl", student, teacher, compare=functools.partial(by_tiles, columns=300)).loss
    twice = torch.autograd.grad(2 * loss, student.outputs[:2])
    assert all(torch.equal(2 * a, b) for a, b in zip(first, twice, strict=True))


def test_only_the_loss_has_a_gradient_and_arguments_stay() -> None:
    student, teacher = sides(3, 20)
    teacher.outputs.features.requires_grad_()
    found = wide_distance("cross_entropy", student, teacher)
    assert [each.requires_grad for each in found] == [True, False, False, False]
    found.loss.backward()
    assert teacher.outputs.features.grad is None
    again = sides(3, 20)
    assert all(torch.equal(a, b) for a, b in zip(student.outputs[:2], again[0].outputs[:2], strict=True))
    with torch.no_grad():
        assert not wide_distance("kl", student, teacher).loss.requires_grad


@pytest.mark.parametrize("other", [sides(4, 20), sides(3, 21)])
def test_other_rows_or_outputs_are_refused(other: tuple[Side, Side]) -> None:
    with pytest.raises(ValueError, match="must be the same rows and outputs"):
        wide_distance("kl", sides(3, 20)[0], other[1])


def test_a_tile_has_its_elements_and_is_not_too_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert tile_columns(256, CPU) == TILE // 256
    assert tile_columns(1 << 20, CPU) == NARROWEST
    assert tile_columns(255, torch.device("cuda")) % 64 == 0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert tile_columns(256, CPU) == 64 * TILE_A_THREAD // 256


KERNEL = """
import torch
from rt_scale.models.projector import Outputs, unit_rows
from rt_scale.training.wide import Side, by_tiles, wide_distance
from rt_scale.training.wide_choice import comparison

kernel, generator = comparison("triton"), torch.Generator().manual_seed(0)
for dtype, batch, outputs, shifted in [
    (torch.float64, 3, 37, True), (torch.float32, 2, 2500, False), (torch.float32, 1, 1, True),
    (torch.bfloat16, 3, 37, False),
]:
    wide = torch.promote_types(dtype, torch.float32)
    f, w, g, v = (torch.randn(n, 4, generator=generator, dtype=wide) for n in (batch, outputs, batch, outputs))
    shifts = [torch.randn(outputs, generator=generator, dtype=wide) if shifted else None for _ in "st"]
    student = Side(Outputs(f.requires_grad_(), w.requires_grad_(), unit=True), shifts[0])
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    found, expected = (
        wide_distance("kl", student, Side(Outputs(g, v), shifts[1]), product=dtype, compare=way)
        for way in (kernel, by_tiles)
    )
    value_tolerance = min(tolerance, 1e-5)  # of equal logits, be they rounded
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=value_tolerance, atol=value_tolerance)
    each = [torch.autograd.grad(loss, (f, w)) for loss in (found.loss, expected.loss)]
    torch.testing.assert_close(*each, rtol=tolerance, atol=tolerance)
    same = Side(Outputs(f.detach(), unit_rows(w.detach())), shifts[0])
    found = wide_distance("kl", student, same, product=dtype, compare=kernel)
    assert float(found.kl) == 0 and not any(each.any() for each in torch.autograd.grad(found.loss, (f, w)))
print("equal")
"""


def test_the_kernel_by_tritons_interpreter_says_what_torch_does() -> None:
    """On the CPU, at small sizes: it says nothing of a GPU's compiler."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KERNEL], env=environment, capture_output=True, text=True, timeout=480)
    assert done.stdout.strip() == "equal", done.stderr


COMPILED = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rt_scale.training.wide_triton import BLOCK, WARPS, _compare_rows

for logits, wide, shift in (("*bf16", "*fp32", True), ("*fp32", "*fp32", False), ("*fp64", "*fp64", True)):
    pointers = dict.fromkeys(("student", "teacher"), logits) | dict.fromkeys(
        ("student_shift", "teacher_shift", "values"), wide
    )
    constants = {
        "STUDENT_SHIFT": shift, "TEACHER_SHIFT": shift, "BLOCK": BLOCK,
        "WIDE": tl.float64 if wide == "*fp64" else tl.float32,
    }
    signature = pointers | {"outputs": "i32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=_compare_rows, signature=signature, constexprs=constants)
    options = {"num_warps": WARPS, "enable_fp_fusion": False}
    print(logits, len(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]) > 0)
"""


def test_the_kernel_compiles_for_hopper(tmp_path: Path) -> None:
    """To machine code, for which no GPU is needed; that it runs is for one to say."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True, timeout=480
    )
    assert done.stdout.split() == ["*bf16", "True", "*fp32", "True", "*fp64", "True"], done.stderr


GPU, SHAPE = torch.device("cuda"), (8, 64, 4, torch.float32)


def tried(difference: float, ratio: float) -> Callable[..., tuple[float, float]]:
    return lambda *given: (difference, ratio)


@pytest.mark.parametrize(
    ("difference", "ratio", "earlier", "name", "reason"),
    [
        (1e-6, 1.25, None, "triton", "1.25 times as fast"),
        (1e-6, 0.80, None, "torch", "0.80 times as fast"),
        (1e-2, 9.0, None, "torch", "gradients are 1.0e-02 off"),
        (float("nan"), 9.0, None, "torch", "gradients are nan off"),
        (1e-6, 0.80, "triton", "triton", "began with it"),
        (1e-6, 9.0, "torch", "torch", "began with it"),
        (1e-2, 9.0, "triton", "torch", "gradients are 1.0e-02 off"),
    ],
)
def test_the_kernel_is_taken_where_it_is_right_and_faster(
    monkeypatch: pytest.MonkeyPatch, difference: float, ratio: float, earlier: str | None, name: str, reason: str
) -> None:
    monkeypatch.setattr(wide_choice, "_kernel", lambda: by_tiles)
    monkeypatch.setattr(wide_choice, "_tried", tried(difference, ratio))
    chosen, why = wide_choice.choose(GPU, *SHAPE, earlier)
    assert chosen == name
    assert reason in why


def test_a_kernel_that_fails_leaves_torch_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> Any:
        raise RuntimeError("no such\ninstruction")

    assert wide_choice.choose(CPU, *SHAPE) == ("torch", "the kernel is for NVIDIA GPUs")
    monkeypatch.setattr(wide_choice, "_kernel", lambda: by_tiles)
    monkeypatch.setattr(wide_choice, "_tried", fails)
    assert wide_choice.choose(GPU, *SHAPE) == (
        "torch",
        "the kernel does not work here (RuntimeError: no such instruction)",
    )
    monkeypatch.setattr(wide_choice, "_kernel", fails)
    assert wide_choice.choose(GPU, *SHAPE, "triton")[0] == "torch"


def test_what_is_tried_is_the_gradient_and_the_time() -> None:
    shape = (8, 64, 4)
    difference, ratio = wide_choice._tried(functools.partial(by_tiles, columns=16), CPU, shape, torch.float64)
    assert difference < 1e-12
    assert 0 < ratio < 1000

    def wrong(student: Side, teacher: Side, product: torch.dtype) -> Any:
        return by_tiles(student, teacher._replace(shift=torch.linspace(0, 1, 64)), product)

    assert wide_choice._tried(wrong, CPU, shape, torch.float32)[0] > 0.01
