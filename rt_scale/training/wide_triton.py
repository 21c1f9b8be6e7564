"""The wide output on NVIDIA GPUs: one kernel makes of two rows of logits their statistics and their difference.

Plain torch reads and writes [B, m] tensors some ten times where twice are enough; and a GPU has work enough in
whole rows, so that nothing need be cut into tiles. Imported where a run tries it alone (``wide_choice``), since
Triton need not be there and need not work.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rt_scale.training.wide import Compared, Side, part_products

BLOCK, WARPS = 2048, 8


@triton.jit  # type: ignore[untyped-decorator]
def _shifted(logits, shift, columns, there, SHIFT: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    z = tl.load(logits + columns, mask=there, other=float("-inf")).to(WIDE)
    if SHIFT:
        z += tl.load(shift + columns, mask=there, other=0.0).to(WIDE)
    return z


@triton.jit  # type: ignore[untyped-decorator]
def _compare_rows(  # type: ignore[no-untyped-def]
    student, teacher, student_shift, teacher_shift, values, outputs,
    STUDENT_SHIFT: tl.constexpr, TEACHER_SHIFT: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: its values [3], and the difference of softmaxes in place of the student's logits."""
    row = tl.program_id(0).to(tl.int64)
    student += row * outputs
    teacher += row * outputs
    lanes = tl.arange(0, BLOCK)
    zero = tl.zeros([BLOCK], dtype=WIDE)
    ours_sum, ours_mean, theirs_sum, theirs_mean, overlap = zero, zero, zero, zero, zero
    ours_top = tl.max(zero, 0) + float("-inf")
    theirs_top = ours_top
    for start in range(0, outputs, BLOCK):
        there = start + lanes < outputs
        ours = _shifted(student, student_shift, start + lanes, there, STUDENT_SHIFT, WIDE)
        theirs = _shifted(teacher, teacher_shift, start + lanes, there, TEACHER_SHIFT, WIDE)
        # Sums are kept relative to the largest logit so far, and taken over to a larger one (online softmax).
        ours_next, theirs_next = tl.maximum(ours_top, tl.max(ours, 0)), tl.maximum(theirs_top, tl.max(theirs, 0))
        ours_exp, theirs_exp = tl.exp(ours - ours_next), tl.exp(theirs - theirs_next)
        ours_scale, theirs_scale = tl.exp(ours_top - ours_next), tl.exp(theirs_top - theirs_next)
        ours, theirs = tl.where(there, ours, 0.0), tl.where(there, theirs, 0.0)
        ours_sum = ours_sum * ours_scale + ours_exp
        ours_mean = ours_mean * ours_scale + ours_exp * ours
        theirs_sum = theirs_sum * theirs_scale + theirs_exp
        theirs_mean = theirs_mean * theirs_scale + theirs_exp * theirs
        overlap = overlap * theirs_scale + theirs_exp * ours
        ours_top, theirs_top = ours_next, theirs_next
    ours_total, theirs_total = tl.sum(ours_sum, 0), tl.sum(theirs_sum, 0)
    # Each is log sum exp(z) - <p, z>.
    ours_log, theirs_log = ours_top + tl.log(ours_total), theirs_top + tl.log(theirs_total)
    tl.store(values + row, ours_log - tl.sum(overlap, 0) / theirs_total)
    tl.store(values + tl.num_programs(0) + row, theirs_log - tl.sum(theirs_mean, 0) / theirs_total)
    tl.store(values + 2 * tl.num_programs(0) + row, ours_log - tl.sum(ours_mean, 0) / ours_total)
    for start in range(0, outputs, BLOCK):
        there = start + lanes < outputs
        ours = _shifted(student, student_shift, start + lanes, there, STUDENT_SHIFT, WIDE)
        theirs = _shifted(teacher, teacher_shift, start + lanes, there, TEACHER_SHIFT, WIDE)
        p, t = tl.exp(ours - ours_top) / ours_total, tl.exp(theirs - theirs_top) / theirs_total
        tl.store(student + start + lanes, (p - t).to(student.dtype.element_ty), mask=there)


def by_kernel(student: Side, teacher: Side, product: torch.dtype) -> Compared:
    """Compare two sides by whole rows: two tensors [B, m] in ``product``, of which one is kept."""
    logits, targets = (part_products(side, slice(None), product) for side in (student, teacher))
    rows, outputs = logits.shape
    wide = torch.promote_types(product, torch.float32)
    values = torch.empty(3, rows, dtype=wide, device=logits.device)
    shifts = [side.shift for side in (student, teacher)]
    # Triton launches on the current device, whichever the memory is of.
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        _compare_rows[(rows,)](
            logits, targets, *(values if shift is None else shift for shift in shifts), values, outputs,
            STUDENT_SHIFT=shifts[0] is not None, TEACHER_SHIFT=shifts[1] is not None,
            WIDE=tl.float64 if wide == torch.float64 else tl.float32,
            BLOCK=min(BLOCK, triton.next_power_of_2(outputs)), num_warps=WARPS,
            # A multiplication fused with the subtraction leaves its rounding where two softmaxes are equal.
            enable_fp_fusion=False,
        )  # fmt: skip
    return Compared(values, [logits])
