"""Sweep files with something wrong in them: each is a sweep, or refused in words; nothing else is ever raised."""

from __future__ import annotations

import random
import re

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import expand, refuse_large
from rt_scale.spec.sweep import parse_sweep

SWEEP = """\
name: all-of-it
experiment: fig3
base: &base
  kind: distill
  data: {name: digits, size: 32, samples: 100}
  encoder: {name: resnet18, norm: batch, width: 0.125}
  projector: {hidden: [64, 32], bottleneck: 16, out_dim: 128, parts: -/lb/fn/wn/l/-, batch_norm: false}
  teacher:
    start_from: {run: {same_but: {student: {alpha: 0.5}, train: {epochs: 3}}}, take: student, part: network}
    update: ema
    momentum: cosine(0.996, 1)
  student: {alpha: 1e-3, temperature: 0.5, center: null}
  objective: {name: kl, pairing: opposite}
  augment:
    kind: multicrop
    local_size: 32
    global_scale: [0.4, 1]
    jitter: {probability: 0.8, hue: 0.1}
  train:
    epochs: 4
    batch_size: 32
    optimizer: {name: sgd, lr: "linear(0, 5e-4, 1ep) + cosine(5e-4, 1e-6)", momentum: 0.9}
    freeze_last: 1ep
  probe: {every: 1ep, knn: 5, epochs: 2, also: [mnist, stl10], lr: 1e-3, standardized: true}
  seeds: {teacher: 7}
  precision: bf16
axes:
  student.alpha: [0.25, 0.5]
  projector.out_dim: {pow2: [3, 4]}
  train.optimizer.momentum: {linspace: [0, 0.9, 2]}
zip:
  - {data.size: [32, 64], data.samples: [100, 200]}
seeds: [0, 3]
explore:
  metric: probe@stl10/student/linear
  mode: max
  stop: {asha: {grace: 2ep, reduction: 2}}
launch: {cpus: 1, gpus: 0.5, workers: 1, retries: 3, loader: map, accelerate: auto, pack: 1}
"""
SEARCH = """\
name: search
base: {data: {name: digits}, encoder: {name: convnet_32_2}}
explore:
  metric: probe/student/linear
  mode: max
  search: {optuna: {runs: 40, seed: 1}}
  space: {student.alpha: {loguniform: [1e-10, 1]}, projector.out_dim: {pow2: [4, 6]}, probe.knn: [5, 20]}
  stop: {median: {grace: 5ep, min_runs: 3}}
"""
ODD = [
    *("", "~", "true", "off", "0", "-1", "-0.0", "1.5", "010", "1:30", "0x10", "1_000", "1e999", ".nan", "-.inf"),
    *(
        "9" * 30,
        "9" * 5000,
        "1e30",
        "[]",
        "{}",
        "[[1]]",
        "[true, 1]",
        "{a: 1}",
        "{{ x }}",
        "2024-13-45",
        "1" + "0" * 30,
    ),
    *("<<: *base", "*base", "*none", "&base x", "!!int x", "!x y", "same", "5ep", "cosine(1, 2", "gaussian", "'", '"'),
    *("\t", "\x00", "\x85", "\u2028", "\ufeff", "\u00e9", "\U0001f600", "%", "@", "|", ">", "a.b.c", "- ", "? ", "#"),
    *("[" * 300, "{a: " * 300, "{pow2: [0, 62]}", "{linspace: [0, 1, 1e9]}", "{run: same}", "{same_but: {}}"),
]


def mutated(text: str, draw: random.Random) -> str:
    """``text`` with one to three of its words, lines or characters gone, doubled, or others."""
    for _ in range(draw.randint(1, 3)):
        pattern = draw.choice([r"[^\s,\[\]{}]+", r"[^\n]*\n", r"\[[^\[\]]*\]|\{[^{}]*\}", r"."])
        found = draw.choice(list(re.finditer(pattern, text)))
        odd = [draw.choice(ODD), draw.choice(re.findall(r"[^\s,\[\]{}]+", text)), "", found.group() * 2]
        text = text[: found.start()] + draw.choice([odd[0], *odd]) + text[found.end() :]
        if not text.strip():
            return text
    return text


def outcome(text: str) -> str:
    """``valid``, or the words of the refusal."""
    try:
        sweep = parse_sweep(text, "sweep.yaml", ["precision=float64", "train.epochs=30"] if len(text) % 2 else [])
        refuse_large(sweep, 64)
        expand(sweep)
    except InputError as error:
        return str(error)
    return "valid"


def test_what_is_mutated_is_valid() -> None:
    assert [outcome(SWEEP), outcome(SEARCH)] == ["valid", "valid"]


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_sweep_file_is_a_sweep_or_refused_in_words(seed: int) -> None:
    draw = random.Random(seed)
    told = [outcome(mutated(text, draw)) for text in [SWEEP, SEARCH] * 12]
    assert len(set(told)) > 8
    assert all("\n" not in each for each in told)
    assert max(map(len, told)) < 20_000
