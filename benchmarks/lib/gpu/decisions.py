"""The decisions that wait for a GPU, each with its threshold, from the answers of ``gpu.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

PAYS = 1.3
"""A way that is not so many times as fast as the plain one goes; one that is becomes the default."""
WIDE = "projector + wide output"
WHOLE = "the whole run"
Answers = Mapping[str, Any]


def decisions(answers: Answers) -> dict[str, dict[str, Any]]:
    """Each decision: its rule, what was measured (how many times as fast), and what follows."""
    return {name: _decided(decide, answers) for name, decide in DECISIONS.items()}


def _decided(decide: Callable[[Answers], tuple[Mapping[str, float], str]], answers: Answers) -> dict[str, Any]:
    measured, then = decide(answers)
    rule = " ".join((decide.__doc__ or "").split())
    if answers["size"] != "full" or not answers["gpu"]:
        then = "open: it takes a GPU and --size full"
    elif not measured:
        then = "open: its questions were left out or failed"
    return {"rule": rule, "times as fast": dict(measured), "decision": then}


def accelerate_default(answers: Answers) -> tuple[dict[str, float], str]:
    """accelerate: auto is graphs on a GPU. It becomes compile if full runs are 1.3 times as fast compiled as graphed in
    tf32 or bf16; it becomes none, and graphs go, if they are nowhere 1.3 times as fast graphed as plain."""
    runs = {name: found["full run"] for name, found in _full(answers).items() if "full run" in found}
    plain = {name: runs[f"{name}, none"] / runs[name] for name in runs if f"{name}, none" in runs}
    compiled = {name: runs[name] / runs[f"{name}, compile"] for name in runs if f"{name}, compile" in runs}
    measured = {f"{name}, graphs over none": value for name, value in plain.items()}
    measured |= {f"{name}, compile over graphs": value for name, value in compiled.items()}
    if max(compiled.values(), default=0) >= PAYS:
        return measured, "compile becomes the default on a GPU"
    if plain and max(plain.values()) < PAYS:
        return measured, "none becomes the default, and graphs go"
    return measured, "graphs stay the default"


def batched_students(answers: Answers) -> tuple[dict[str, float], str]:
    """launch.pack is 1. It becomes auto if one of 2, 4, 8 or 16 students trained as one network takes its step 1.3
    times as fast as alone with any encoder asked; else batched networks go from GPUs."""
    found = answers.get("packing", {})
    best = {
        encoder: max((value for size, value in each["ratio"].items() if int(size) > 1), default=0.0)
        for encoder, each in found.items() if isinstance(each, Mapping) and each.get("ratio")
    }  # fmt: skip
    pays = [encoder for encoder, value in best.items() if value >= PAYS]
    return best, f"auto becomes the default, for {', '.join(pays)}" if pays else "batched networks go from GPUs"


def triton(answers: Answers) -> tuple[dict[str, float], str]:
    """The wide output is torch's operations. A kernel of its own in Triton is written if, at the floor of its memory
    traffic, it would make a whole run 1.3 times as fast in float32, tf32 or bf16."""
    measured = {}
    for precision, found in _full(answers).items():
        parts = {row["part"]: row for row in found.get("parts", ())}
        if {WIDE, WHOLE} <= parts.keys():
            whole, wide = parts[WHOLE]["seconds"], parts[WIDE]
            measured[precision] = whole / (whole - wide["seconds"] + wide["floor"])
    pays = max(measured.values(), default=0) >= PAYS
    return measured, "write the kernel" if pays else "no kernel: it would gain too little"


def _full(answers: Answers) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = answers.get("full run", {}).get("rt-scale", {})
    return found


DECISIONS = {"accelerate default": accelerate_default, "batched students": batched_students, "Triton": triton}
